"""Names of sections and keys of recipes before 0.1.0, which are answered with today's."""

from vitrail.cli.syntax.flags import flag_of
from vitrail.recipe import SECTIONS
from vitrail.validation import RENAMED


def renamed(section: str, key: str) -> str:
    """Today's flag of a key by its former name; "" for any other.

    >>> renamed("input", "resize")
    '--input.resize-mode'
    """
    key = key.replace("-", "_")
    now = RENAMED.get(f"{section}.{key}", "")
    if not now and section in RENAMED and section not in SECTIONS:
        now = f"{RENAMED[section]}.{key}"
    return flag_of(*now.split(".", 1)) if now else ""
