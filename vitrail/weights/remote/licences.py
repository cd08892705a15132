"""Licences of published weights: those that restrict their use are named before a byte is fetched, and are accepted by
name."""

from typing import NamedTuple

from vitrail.errors import UsageError


class Licence(NamedTuple):
    title: str
    limits: str
    text: str = ""  # where it stands


PERMISSIVE = (  # nothing is asked for these
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "unlicense",
    "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "pddl", "odc-by", "wtfpl", "artistic-2.0", "ecl-2.0", "ncsa",
)  # fmt: skip
RESTRICTED = {
    "cc-by-nc-4.0": Licence(
        "Creative Commons Attribution-NonCommercial 4.0", "not for commercial use",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
    "cc-by-nc-sa-4.0": Licence(
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0", "not for commercial use, and passed on as it is",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    ),
    "dinov3-license": Licence(
        "DINOv3 License of Meta", "some uses are excluded, and it is passed on with whatever is made from the weights",
        "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    ),
    "fair-noncommercial-research-license": Licence(
        "FAIR Noncommercial Research License", "for research that is not commercial",
        "https://huggingface.co/facebook/fair-noncommercial-research-license/",
    ),
    "cvnets-license": Licence(
        "Apple's licence of CVNets", "Apple's own terms", "https://github.com/apple/ml-cvnets/blob/main/LICENSE"
    ),
    "apple-ascl": Licence(
        "Apple Sample Code License", "Apple's own terms", "https://github.com/apple/ml-cvnets/blob/main/LICENSE"
    ),
    "apple-amlr": Licence("Apple Machine Learning Research Model License", "for research that is not commercial"),
    "nvidia-segformer": Licence(
        "NVIDIA Source Code License for SegFormer", "not for commercial use",
        "https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
    ),
    "other": Licence("a licence of its own", "its terms are on the page of the repository"),
}  # fmt: skip
OF_REPOS = {"nvidia/segformer": "nvidia-segformer", "nvidia/mit-b": "nvidia-segformer", "apple/mobilevit": "apple-ascl",
            "apple/deeplabv3-mobilevit": "apple-ascl", "facebook/dinov3": "dinov3-license"}  # fmt: skip


def licence_of_repo(repo: str, stated: str) -> str:
    """The name of a licence: as a repository states it, or of its own where it says "other" or nothing."""
    own = next((name for start, name in OF_REPOS.items() if repo.casefold().startswith(start)), "")
    return own if own and stated in ("", "other", "unknown") else stated.casefold()


def is_permissive(licence: str) -> bool:
    """Whether weights under it may be used without asking. Where none is stated nothing is asked either; it is said."""
    return not licence or licence.casefold() in PERMISSIVE


def describe_licence(licence: str) -> str:
    """In one phrase; "" where none is known."""
    known = RESTRICTED.get(licence)
    return f"{licence} ({known.title}: {known.limits})" if known else licence


def check_licence(licence: str, accepted: str, what: str) -> None:
    """Errors: `UsageError` for weights under a licence that restricts their use, unless `accepted` names it."""
    if is_permissive(licence):
        return
    names = {name.strip().casefold() for name in accepted.split(",")}
    if licence.casefold() in names:
        return
    known = RESTRICTED.get(licence, Licence("", ""))
    other = f", not {accepted}" if accepted else ""
    read = f"its text: {known.text}" if known.text else "its text is on the page of the weights"
    raise UsageError(
        f"{what}: the licence of these weights is {describe_licence(licence)}{other}; nothing was fetched",
        f"--accept-licence {licence} if you agree; {read}",
    )
