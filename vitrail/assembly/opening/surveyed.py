"""The survey of a data set at a start: of all images where `vitrail check` has read them and none has changed since,
else of a sample; kept in the cache, so that the next start reads none."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from vitrail.data.dataset import Dataset
from vitrail.data.survey.assess import broken_annotations
from vitrail.data.survey.images import Survey, UnreadableImage, survey_images
from vitrail.data.survey.record import SurveyRecord, digest_of, from_text, to_table
from vitrail.data.survey.sample import SAMPLE
from vitrail.errors import many
from vitrail.storage.cache_folder import cache_folder, keep_file, touch
from vitrail.storage.json_text import to_json

NEWEST = 24  # surveys that are kept
Progress = Callable[[int, int], None]


def survey_data(
    dataset: Dataset, keys: Mapping[str, Any], whole: bool, progress: Progress | None = None
) -> SurveyRecord:
    """The newest survey that is known of the data as it is, else a new one. keys: of the layout. whole: of every
    image."""
    path = record_path(dataset, keys)
    if path and (known := read_record(path + ".whole")):
        return known
    if path and not whole and (known := read_record(path + ".sample")):
        return known
    survey = survey_images(dataset, progress, whole=whole)
    broken = broken_annotations(dataset, survey, whole=whole)
    keep_survey(dataset, keys, survey, broken)
    return SurveyRecord(survey, broken)


def keep_survey(dataset: Dataset, keys: Mapping[str, Any], survey: Survey, broken: tuple[UnreadableImage, ...]) -> None:
    """Keeps a survey for the next start; not of a few images, which are read in no time."""
    if path := record_path(dataset, keys):
        name = path + (".whole" if survey.is_whole else ".sample")
        keep_file(cache_folder() / "surveys" / name, to_json(to_table(SurveyRecord(survey, broken))).encode(), NEWEST)


def record_path(dataset: Dataset, keys: Mapping[str, Any]) -> str:
    """The name of the record of a data set in the cache; "" for one that is read whole at every start, or is no files,
    so that nothing shows whether it has changed."""
    files = sum(len(split) for split in dataset.splits.values() if split.array is None)
    return digest_of(dataset, keys) if files > SAMPLE and len(dataset.entries) else ""


def read_record(name: str) -> SurveyRecord | None:
    path = cache_folder() / "surveys" / name
    with contextlib.suppress(OSError, ValueError):
        record = from_text(path.read_text(encoding="utf-8"))
        touch(path)
        return record
    return None


def describe_survey(survey: Survey) -> list[str]:
    """What was not looked at, in a sentence; nothing where all was."""
    total = sum(survey.images.values())
    if survey.is_whole:
        return []
    looked = f"looked at {many(survey.read, 'image')} of {total:,}, chosen by the hash of their names"
    return [f"{looked}; vitrail check reads all of them, and the next start uses what it finds"]
