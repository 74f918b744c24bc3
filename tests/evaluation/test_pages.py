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


def macro(call: str, **context: object) -> str:
    text = '{% import "macros.html" as parts %}{{ parts.' + call + " }}"
    return _environment().from_string(text).render(**context)


def test_a_page_is_whole_and_escapes_text() -> None:
    text = render("base.html", title="<b>")
    assert text.startswith("<!doctype html>") and "<title>&lt;b&gt;</title>" in text
    assert "http" not in text and "<script" not in text
    with pytest.raises(UndefinedError):
        render("base.html")


def test_tables_escape_align_and_say_what_they_leave_out() -> None:
    rows = [("<a>", 0.123456, 1234567, None, Markup("<i>b</i>"))] * 62
    text = macro("table(head, rows, 'all.csv')", head=("<a>", *"bcde"), rows=rows)
    assert "<th>&lt;a&gt;</th>" in text and text.count("<tr>") == 61
    assert "and 2 more in all.csv" in text
    assert '<td>&lt;a&gt;</td><td class="n">0.1235</td><td class="n">1,234,567</td>' in text
    assert "<td>–</td><td><i>b</i></td>" in text


def test_caution_is_a_sentence() -> None:
    assert ">Few images.<" in macro("caution({'caution': 'few images'})")
    assert macro("caution({'caution': ''})").strip() == ""


def drawn(svg: str) -> str:
    """All text of a plot that is right XML."""
    assert "#010203" not in svg and "currentColor" in svg
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
    assert plots.chart("Loss", "x", lines) == plots.chart("Loss", "x", lines)


def test_pictures_without_loss() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    url = data_url(rgb, lossless=True)
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    np.testing.assert_array_equal(read[..., ::-1], rgb)
