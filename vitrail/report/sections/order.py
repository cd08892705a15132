"""Which sections a report has, by the output of the task, in order."""

from vitrail.report.sections import dense, engines, exports, features, generated, images, inside, metrics, provenance
from vitrail.report.sections.headline import commands, curves

FIRST = (commands, curves)
LAST = (exports.section, engines.section, provenance.price, provenance.data, provenance.recipe, provenance.versions)
BY_OUTPUT = {  # the sections between them, by the output of the task
    "classes": (
        metrics.confusion,
        metrics.per_class,
        images.mistakes,
        images.samples,
        inside.section,
        metrics.calibration,
    ),
    "masks": (dense.per_class, dense.images),
    "boxes": (dense.per_class, dense.curves, dense.images),
    "images": (generated.images, generated.snapshots, generated.copies),
    "features": (features.variety, features.drawings, metrics.retrieval),
}
