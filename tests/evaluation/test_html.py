"""Parts of the pages: histograms and pictures."""

import base64
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from segmentation.evaluation.html import data_url, histogram, histogram_of, table


def test_histogram_is_right_and_is_xml() -> None:
    svg = ElementTree.fromstring(histogram("a < b", [0, 1, 2, 4], [9, 0, 99], mark=3))
    bars = svg.findall("rect")
    assert [bar.findtext("title") for bar in bars] == ["0 – 1: 9", "2 – 4: 99"]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights[1] / heights[0] == pytest.approx(2, abs=0.01)  # log10 of one more
    (line,) = (line for line in svg.findall("line") if line.attrib["class"] == "m")
    left, step = float(bars[0].attrib["x"]), float(bars[1].attrib["x"]) - float(bars[0].attrib["x"])
    assert float(line.attrib["x1"]) == pytest.approx(left + step / 2 * 2.5, abs=0.2)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[0], [1], [5, 5], [0, 1, 1000], [0.25, 0.5], [3.0] * 7])
def test_histograms_count_all(values: list[float], log: bool) -> None:
    svg = ElementTree.fromstring(histogram_of("x", values, log))
    titles = [bar.findtext("title") or "" for bar in svg.findall("rect")]
    assert sum(int(title.rpartition(": ")[2]) for title in titles) == len(values)


def test_pictures_without_loss() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    url = data_url(rgb, lossless=True)
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    np.testing.assert_array_equal(read[..., ::-1], rgb)


def test_tables_say_what_they_leave_out() -> None:
    text = table(("<a>", "b"), [("1", "2")] * 62, "all.csv")
    assert "<th>&lt;a&gt;</th>" in text and text.count("<tr>") == 61
    assert "and 2 more in all.csv" in text
