"""The macro for Fiji, run by ImageJ itself where that is (``apt-get install imagej xvfb``)."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segmentation.__main__ import main
from segmentation.datasets.synthetic import write_folder
from segmentation.networks import FOLDER
from segmentation.predict.scripts import write_scripts

IMAGEJ = Path("/usr/share/java/ij.jar")
DRIVE = """
open("{image}");
run("Run...", "path=[{macro}]");
text = "";
for (i = 0; i < roiManager("count"); i++) {{
    roiManager("select", i);
    getStatistics(area);
    text += d2s(area, 0) + "," + Table.get("area", i) + "\\n";
}}
File.saveString(text, "{out}");
run("Quit");
"""


@pytest.mark.skipif(
    not (IMAGEJ.exists() and shutil.which("xvfb-run")), reason="needs ImageJ and xvfb"
)
def test_imagej_shows_the_objects_that_predict_finds(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", images=1, seed=3)
    (image,) = (tmp_path / "data" / "images").iterdir()
    network = tmp_path / "nuclei.ckpt"
    shutil.copy(FOLDER / network.name, network)
    write_scripts(tmp_path, network.name)
    macro, drive, out = (tmp_path / name for name in ("fiji.ijm", "drive.ijm", "shown.csv"))
    here = Path(sys.executable).with_name("segmentation")
    text = macro.read_text().replace('program = "segmentation"', f'program = "{here}"')
    macro.write_text(text)
    drive.write_text(DRIVE.format(image=image, macro=macro, out=out))
    java = ["java", f"-Djava.io.tmpdir={tmp_path}", "-jar", str(IMAGEJ), "-macro", str(drive)]
    subprocess.run(["xvfb-run", "--auto-servernum", *java], check=True, timeout=300)

    found = tmp_path / "found"
    main(
        ["predict", f"--ckpt_path={network}", f"--data.images={image.parent}", f"--output={found}"]
    )
    with (found / "objects.csv").open() as file:
        areas = [int(row["area"]) for row in csv.DictReader(file)]
    shown = [[int(cell) for cell in line.split(",")] for line in out.read_text().split()]
    assert len(areas) > 2
    assert shown == [[area, area] for area in areas], "outlines and table are those of predict"
