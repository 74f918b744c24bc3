/* QuPath: find the objects of the selected annotation, or of the whole image, by {{ model }}.
 *
 * It calls the command `segmentation` of this computer (pip install biomedical-segmentation), so
 * the objects are the same as those of `segmentation predict`. Automate > Script editor > Run.
 */
import java.awt.geom.AffineTransform
import java.nio.file.Files
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObjectTools
import qupath.lib.regions.RegionRequest

def program = 'segmentation'  // or its whole path, such as '/home/me/venv/bin/segmentation'
def network = '{{ model }}'  // give its whole path; on Windows with / as well

if (!new File(network).exists())
    throw new IllegalArgumentException(network + ': no such file; set its whole path at the top of this script')
def server = getCurrentServer()
def selected = getSelectedROI()
def request = selected == null ? RegionRequest.createInstance(server)
                               : RegionRequest.createInstance(server.getPath(), 1.0, selected)
def folder = Files.createTempDirectory('segmentation')
def images = Files.createDirectory(folder.resolve('images'))
try {
    writeImageRegion(server, request, images.resolve('region.tif').toString())
    def words = [program, 'predict', '--ckpt_path', network, '--data.images', images.toString(),
                 '--output', folder.resolve('found').toString(), '--geojson']
    def process = new ProcessBuilder(words).redirectErrorStream(true).start()
    process.inputStream.eachLine { line -> println line }
    if (process.waitFor() != 0)
        throw new RuntimeException('segmentation predict failed; its last line says why')
    // Their coordinates are those of the region.
    def shift = AffineTransform.getTranslateInstance(request.getX(), request.getY())
    def found = PathIO.readObjects(folder.resolve('found/geojson/region.geojson'))
            .collect { PathObjectTools.transformObject(it, shift, true) }
            .findAll { selected == null || selected.contains(it.getROI().getCentroidX(), it.getROI().getCentroidY()) }
    addObjects(found)
    println found.size() + ' objects'
} finally {
    folder.toFile().deleteDir()
}
