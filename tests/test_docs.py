"""What README and docs tell people to type exists: commands, options, configs, links."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from segmentation.__main__ import COMMANDS, main
from segmentation.commands import help_text
from segmentation.config_files import find_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*/*.md")), ROOT / "docs" / "index.md"]


def typed(page: Path) -> list[list[str]]:
    """The words of each `segmentation` command on a page, in blocks and within sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(segmentation [^`]+)`", re.sub(r"\s*\n\s*", " ", text))
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words and words[0] == "segmentation" and len(words) > 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_a_page_exist(page: Path) -> None:
    for words in typed(page):
        if words[1] in ("COMMAND", "--help"):
            continue
        name = next((n for n in (" ".join(words[1:3]), words[1]) if n in COMMANDS), None)
        assert name is not None or any(n.startswith(f"{words[1]} ") for n in COMMANDS), words
        if name is None or name in ("fit", "validate", "test"):
            known = None
        else:
            known = help_text(name, COMMANDS[name])
        for word in words[2:]:
            if word == "--":
                break
            option = word.partition("=")[0]
            lightnings = option.startswith(("--model.", "--data.", "--trainer.", "--run."))
            if known is not None and option.startswith("--") and option not in known:
                assert lightnings or option in ("--config", "--help"), (words, option)
        for flag, value in itertools.pairwise(words):
            placed = value.isupper() or value.startswith(("RUN", "$", "mine")) or "TIME" in value
            if flag == "--config" and not placed and "*" not in value:
                assert find_config(value).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path = page.parent / target
            assert path.exists() or path.name == "commands.md", target


def test_configs_in_the_table_exist() -> None:
    text = (ROOT / "docs" / "howto" / "configs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) > 10
    for name in names:
        assert find_config(name.removesuffix("/…")).exists()


def test_the_examples_of_extending_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network, loss, target and data set of one's own, as the page shows them, in one run."""
    page = (ROOT / "docs" / "howto" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    own = [
        *("--model.net=mine.TwoConvs", "--model.net.width=4", "--model.loss=mine.Squared"),
        *("--model.target=mine.Inner", "--data=mine.SquaresDataModule", "--data.crop=32"),
        *("--data.split.val=2", "--data.split.test=3", "--data.num_workers=0"),
        *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--run.wandb=off"),
    ]
    assert main(["fit", "--config", "quickstart", *own]) == 0
    assert list(tmp_path.glob("runs/quickstart/*/scores.json"))
