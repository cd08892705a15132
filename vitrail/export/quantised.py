"""Int8: a second file out of an exported one."""

from vitrail import catalog
from vitrail.errors import UsageError
from vitrail.export.contract import ExportFormat
from vitrail.export.request import ExportRequest, ExportResult, ExportSubject


def check_quantiser(request: ExportRequest) -> None:
    """Errors: `UsageError` for a format without int8, or where a package that it needs is missing."""
    known = catalog.list_modules("export/int8")
    if request.format not in known:
        has = f"--int8 works with {' and '.join(known)}" if known else "leave --int8 out"
        raise UsageError(f"the format {request.format} has no int8", has)
    entry = catalog.find("export/int8", request.format)
    entry.module.build(entry.config).check(bool(request.data))


def quantise_export(
    subject: ExportSubject, chosen: ExportFormat, request: ExportRequest, result: ExportResult
) -> ExportResult:
    """The export in `result.folder`, which has its proof, with an int8 file in place of its own. Errors: `RunError`
    where it is less accurate than it may be, unless `request.force`."""
    raise NotImplementedError
