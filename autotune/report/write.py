"""From a database to a report file."""

from enum import StrEnum
from pathlib import Path

from autotune.errors import UserError
from autotune.files import replacing, write_text
from autotune.report.content import Report, Scope, gather
from autotune.report.markdown import markdown
from autotune.report.page import page
from autotune.report.tables import csv_text, write_parquet
from autotune.store.store import Store


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    CSV = "csv"
    PARQUET = "parquet"


_SUFFIXES = {
    ".html": ReportFormat.HTML,
    ".htm": ReportFormat.HTML,
    ".md": ReportFormat.MD,
    ".csv": ReportFormat.CSV,
}
_SUFFIXES[".parquet"] = ReportFormat.PARQUET


def format_of(out: Path, named: str | None) -> ReportFormat:
    """The format that was named, else the one that the file's ending means, HTML where it has none.

    Raises:
        UserError: no such format, or the ending means none.
    """
    if named is None:
        format_by_name = _SUFFIXES.get(out.suffix.lower()) if out.suffix else ReportFormat.HTML
        if format_by_name is None:
            raise UserError(
                f"--out {out} has no known suffix: use one of {', '.join(_SUFFIXES)}, or give --format"
            )
        return format_by_name
    if named not in list(ReportFormat):
        raise UserError(f"unknown --format {named!r}: use one of {', '.join(ReportFormat)}")
    return ReportFormat(named)


def write_report(store: Store, scope: Scope, out: Path, format_: ReportFormat) -> Report:
    """Writes a report; returns what is in it.

    Raises:
        UserError: nothing to report on, a package is missing, or the file cannot be written.
    """
    report = gather(store, scope)
    try:
        if format_ is ReportFormat.PARQUET:
            with replacing(out) as beside:
                write_parquet(report, beside)
        else:
            write_text(out, report_text(store, report, format_))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): name another file with --out") from error
    return report


def report_text(store: Store, report: Report, format_: ReportFormat) -> str:
    """A report as text."""
    if format_ is ReportFormat.MD:
        return markdown(store, report)
    return csv_text(report) if format_ is ReportFormat.CSV else page(store, report)
