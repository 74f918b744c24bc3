"""Parts of the pages: templates, plots and pictures."""

import base64
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from segmentation.evaluation import plots
from segmentation.evaluation.overlays import data_url
from segmentation.evaluation.pages import _environment, render
from tests.pages import check_page


def macro(call: str, **context: object) -> str:
    text = '{% import "macros.html" as parts %}{{ parts.' + call + " }}"
    return _environment().from_string(text).render(**context)


def test_a_page_is_whole_and_escapes_text() -> None:
    text = render("base.html", title="<b>")
    check_page(text)
    assert "<title>&lt;b&gt;</title>" in text
    assert "http" not in text and "<script" not in text
    with pytest.raises(UndefinedError):
        render("base.html")


def test_tables_escape_align_and_say_what_they_leave_out() -> None:
    rows = [("<a>", 0.123456, 1234567, None, Markup("<i>b</i>"))] * 62
    text = macro("table(head, rows, 'all.csv')", head=("<a>", *"bcde"), rows=rows)
    assert '<th scope="col">&lt;a&gt;</th>' in text and text.count("<tr>") == 61
    assert "and 2 more in all.csv" in text
    assert '<td>&lt;a&gt;</td><td class="n">0.1235</td><td class="n">1,234,567</td>' in text
    assert "<td>–</td><td><i>b</i></td>" in text


def test_caution_is_a_sentence() -> None:
    assert ">Few images.<" in macro("caution({'caution': 'few images'})")
    assert macro("caution({'caution': ''})").strip() == ""


def drawn(svg: str) -> str:
    """All text of a plot that is right XML."""
    assert "currentColor" in svg
    return " ".join(ElementTree.fromstring(svg).itertext())


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[0], [1], [5, 5], [0, 1, 1000], [0.25, 0.5]])
def test_histograms(values: list[float], log: bool) -> None:
    assert "a < $b$" in drawn(plots.histogram_of("a < $b$", values, log))


def test_curves_and_charts() -> None:
    x = np.array([0, 0.5, np.nan, 1])
    text = drawn(plots.curve("ROC", "fpr", "tpr", x, x, diagonal=True, dots=True))
    assert all(word in text for word in ("ROC", "fpr", "tpr"))
    lines = {"train": [(0.0, 1.0), (1.0, 0.1)], "val & $x$": [(1.0, 0.5)], "none": []}
    text = drawn(plots.chart("Loss", "epoch", lines, log=True))
    assert "val & $x$" in text and "none" not in text
    assert plots.chart("Loss", "epoch", {"none": []}) == ""
    assert "train: 0.1 (epoch 1)" in text  # under the mouse
    assert plots.chart("Loss", "x", lines) == plots.chart("Loss", "x", lines)


@pytest.mark.parametrize(
    ("low", "high", "scale", "wanted"),
    [
        (0, 1, "linear", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.013, 0.042, "linear", [-0.01, 0, 0.01, 0.02, 0.03, 0.04]),
        (3, 3, "linear", [3, 3.2, 3.4, 3.6, 3.8, 4]),
        (0.2, 7, "log", [0.2, 0.5, 1, 2, 5]),
        (0, 1300, "count", [0, 1, 10, 100, 1000]),
    ],
)
def test_ticks_are_round(low: float, high: float, scale: plots.Scale, wanted: list[float]) -> None:
    axis = plots.Axis(low, high, scale)
    assert axis.ticks() == pytest.approx(wanted)
    assert [axis.place(axis.low), axis.place(axis.high)] == [0, 1]


def test_epochs_are_whole_numbers() -> None:
    text = plots.chart("Loss", "epoch", {"a": [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]})
    found = [e.text for e in ElementTree.fromstring(text).iter() if e.tag.endswith("text")]
    assert found[2:5] == ["0", "1", "2"]


def test_pictures_without_loss() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    url = data_url(rgb, lossless=True)
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    np.testing.assert_array_equal(read[..., ::-1], rgb)
