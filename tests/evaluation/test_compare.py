"""Runs beside each other: pairing, seeds, baselines and refusals."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from segmentation.__main__ import main
from segmentation.evaluation.compare import comparison
from segmentation.evaluation.table import write_images
from tests.evaluation.folders import scored, shifted, truth
from tests.helpers import refusal

RNG = np.random.default_rng(0)
HITS = RNG.integers(200, 300, 30)


def run(folder: Path, hits: np.ndarray, first: int = 0, **others: np.ndarray) -> str:
    """A tested run: each image has 300 true pixels of 1000, so many found and none too much."""
    rows = [
        {"method": method, "id": f"{first + i:02}", "kind": "", "tp": int(n), "fp": 0}
        | {"fn": 300 - int(n), "tn": 700, "iou": n / 300}
        for method, some in ({"network": hits} | others).items()
        for i, n in enumerate(some)
    ]
    write_images(folder / "per_image.csv", pd.DataFrame(rows))
    return str(folder)


def found(report: dict[str, Any], score: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["scores"] if row["score"] == score}


def test_difference_is_paired(tmp_path: Path) -> None:
    """Every image is better by 6 of 300: the difference is .02 on each, without any width."""
    one, two = run(tmp_path / "a", HITS), run(tmp_path / "b", HITS + 6)
    row = found(comparison([one, two]), "image_iou")[two]
    ends = row["difference"], row["difference_low"], row["difference_high"]
    assert ends == pytest.approx((0.02, 0.02, 0.02), abs=2e-6)
    assert row["high"] - row["low"] > 0.02  # while the score itself has a width
    assert row["p"] < 1e-5
    pooled = found(comparison([one, two]), "iou")[two]
    assert pooled["value"] == pytest.approx((HITS + 6).mean() / 300, abs=1e-6)


def test_noise_is_no_difference(tmp_path: Path) -> None:
    noise = RNG.permutation(np.repeat([-9, 9], 15))
    specs = [run(tmp_path / "a", HITS), run(tmp_path / "b", HITS + noise)]
    row = found(comparison(specs), "image_iou")[specs[1]]
    assert row["difference_low"] < 0 < row["difference_high"] and row["p"] > 0.5
    # 30 draws of plus or minus 9: the number of pluses is binomial.
    wins = stats.binom.ppf(0.975, 30, 0.5)
    assert row["difference_high"] == pytest.approx((2 * wins - 30) * 9 / 300 / 30)


def test_seeds_are_pooled(tmp_path: Path) -> None:
    base = run(tmp_path / "base", HITS)
    seeds = [run(tmp_path / f"s{k}", HITS + k) for k in (0, 3, 9)]
    report = comparison([base, f"new={','.join(seeds)}"])
    row = found(report, "image_iou")["new"]
    assert row["runs"] == 3 and report["runs"]["new"] == tuple(seeds)
    assert row["difference"] == pytest.approx(4 / 300, abs=2e-6)
    assert row["sd_over_runs"] == pytest.approx(np.std([0, 3, 9], ddof=1) / 300, abs=2e-6)
    assert found(report, "image_iou")[base]["sd_over_runs"] is None


def test_baselines_stand_once_among_the_rows(tmp_path: Path) -> None:
    otsu = HITS - 100
    one = run(tmp_path / "a", HITS, otsu=otsu, nothing=np.zeros(30))
    two = run(tmp_path / "b", HITS + 1, otsu=otsu)
    assert list(found(comparison([one, two]), "iou")) == [one, two, "otsu", "nothing"]
    alone = found(comparison([one]), "image_iou")  # with its baselines
    assert alone["otsu"]["difference"] == pytest.approx(-1 / 3, abs=2e-6)
    with pytest.raises(Exception, match="nothing to compare with; give a second run"):
        comparison([run(tmp_path / "c", HITS)])


def test_evaluations_bring_object_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth(tmp_path / "t")
    for name, shift in (("one", 1), ("two", 0)):
        shifted(tmp_path / name, dict.fromkeys("abcdef", shift))
        scored(tmp_path / "t", tmp_path / name, tmp_path / f"out_{name}")
    argv = [f"one={tmp_path / 'out_one'}", f"two={tmp_path / 'out_two'}"]
    output = f"--output={tmp_path / 'cmp'}"
    assert main(["compare", *argv, "--score=ap", "--score=image_hd95", output]) == 0
    printed = capsys.readouterr().out
    assert "ap (higher is better)" in printed and "image_hd95 (lower is better)" in printed
    assert "image_iou (" not in printed
    report = json.loads((tmp_path / "cmp" / "compare.json").read_text())
    rows = {(row["score"], row["name"]): row for row in report["scores"]}
    assert rows["ap", "one"]["value"] == pytest.approx(0.5)  # IoU 5/7: found at .5, .55 … .7
    assert rows["ap", "two"]["difference"] == pytest.approx(0.5)
    assert rows["image_hd95", "two"]["difference"] == pytest.approx(-1)
    assert rows["image_hd95", "two"]["better"] == "lower"
    assert (tmp_path / "cmp" / "compare.csv").read_text().count("\n") == len(rows) + 1
    assert "<svg" in (tmp_path / "cmp" / "compare.html").read_text()
    line = refusal(capsys, ["compare", *argv, "--score=dice"])
    assert "--score dice: not recorded by all; choose from iou, f1" in line


def test_scores_that_images_lack_are_left_out_for_all(tmp_path: Path) -> None:
    """One run has no value for an image: both means are over the others."""
    specs = [run(tmp_path / name, np.full(3, 9)) for name in "ab"]
    for folder, values in zip(specs, ((0.1, 0.2, 0.9), (0.3, 0.4, None)), strict=True):
        path = Path(folder, "per_image.csv")
        pd.read_csv(path).assign(seg=values).to_csv(path, index=False)
    one, two = found(comparison(specs), "image_seg").values()
    assert one["value"] == pytest.approx(0.15) and one["images"] == two["images"] == 2
    assert two["difference"] == pytest.approx(0.2)


def test_groups_widen_the_interval(tmp_path: Path) -> None:
    shift = np.repeat([-5, 10, 5, 20, 10, -10], 5)
    specs = [run(tmp_path / "a", HITS), run(tmp_path / "b", HITS + shift)]
    both = []
    for images in (30, 6):
        report = comparison(specs)
        both.append(found(report, "image_iou")[specs[1]])
        assert report["resampled"]["how_many"] == images
        for path in tmp_path.glob("*/per_image.csv"):
            pd.read_csv(path).assign(group=np.arange(30) // 5).to_csv(path, index=False)
    widths = [row["difference_high"] - row["difference_low"] for row in both]
    # Percentile intervals of six are a little too narrow.
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(5), rel=0.12)
    assert both[0]["p"] < 0.05 < both[1]["p"]


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run(tmp_path / "a", HITS)
    other = run(tmp_path / "b", HITS[:29], first=2)
    line = refusal(capsys, ["compare", one, other])
    assert re.search(r"b: its test images are not those of .*a: it lacks 00, 01 and has 30", line)
    truth = run(tmp_path / "c", HITS)
    table = pd.read_csv(path := tmp_path / "c" / "per_image.csv", dtype={"id": str})
    table.loc[3, "fn"] += 1
    table.to_csv(path, index=False)
    line = refusal(capsys, ["compare", one, truth])
    assert "c: the foreground of the truth differs" in line and "for 03;" in line
    for spec, told in (
        (f"x={one}", "is given twice"),
        (str(tmp_path), "per_image.csv: cannot be read"),
        (f"{one},{truth}", "several runs need a name in front"),
        ("=x", "is neither a run's folder nor NAME=RUN,RUN,…"),
        (f"{one}={other}", "is the name of two rows"),
    ):
        assert told in refusal(capsys, ["compare", one, spec])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "lacks the columns"),
        ("", "cannot be read"),
        ("method,id,tp,fp,fn,tn\nnetwork,a,1,1,1,1\nnetwork,a,1,1,1,1\n", "a occurs twice"),
        ("method,id,tp,fp,fn,tn\nnetwork,a,1,x,1,1\n", "column fp lacks numbers"),
        ("method,id,tp,fp,fn,tn\nnetwork,a,1,1\n", "column fn lacks numbers"),
        ("method,id,tp,fp,fn,tn\notsu,a,1,1,1,1\n", "no rows of method network or prediction"),
    ],
)
def test_faulty_tables(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "per_image.csv").write_text(text)
    assert told in refusal(capsys, ["compare", str(tmp_path)])
