// Fiji: find the objects of the image that is shown by {{ model }}.
//
// It calls the command `segmentation` of this computer (pip install biomedical-segmentation), so
// the objects are the same as those of `segmentation predict`. They come to the ROI Manager, their
// measurements to a table. Plugins > Macros > Run...

program = "segmentation";  // or its whole path, such as "/home/me/venv/bin/segmentation"
network = File.getParent(getInfo("macro.filepath")) + File.separator + "{{ model }}";

if (nImages == 0) exit("Open an image first.");
if (!File.exists(network)) exit(network + ": no such file; leave this macro in the folder of the export");
folder = getDirectory("temp") + "segmentation-" + d2s(getTime(), 0);
images = folder + File.separator + "images";
found = folder + File.separator + "found";
File.makeDirectory(folder);
File.makeDirectory(images);
shown = getImageID();
run("Duplicate...", "title=image duplicate");
saveAs("Tiff", images + File.separator + "image.tif");
close();
selectImage(shown);
print(exec(program, "predict", "--ckpt_path", network, "--data.images", images, "--output", found, "--rois"));
rois = found + File.separator + "rois" + File.separator + "image.zip";
if (!File.exists(rois)) exit("Nothing was found, or segmentation predict failed: see the log and " + folder);
roiManager("reset");
roiManager("Open", rois);
roiManager("Show All without labels");
Table.open(found + File.separator + "objects.csv");
