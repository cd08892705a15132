"""Text that may be shown: the one door to a terminal, a page or a plot for names that come from files."""

import re
import shlex

# controls but for tab and line feed, line separators, overrides of the direction of writing, and halves of surrogates
# (bytes of a file's name that are no UTF-8)
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with every character that a terminal would obey, or that no encoding can write, spelt out.

    >>> printable("a\\x1b[2J.png"), printable("caf\\udce9")
    ('a\\\\x1b[2J.png', 'caf\\\\xe9')
    """
    return text if text.isascii() and text.isprintable() else UNPRINTABLE.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    code -= 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0  # a byte, as Python keeps it in a name
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def shell_word(text: str) -> str:
    """A word of a command that is printed, so that it works when it is copied; odd bytes as bash and zsh write them.

    >>> shell_word("runs/a"), shell_word("two words"), shell_word("caf\\udce9")
    ('runs/a', "'two words'", "$'caf\\\\xe9'")
    """
    if not UNPRINTABLE.search(text):
        return shlex.quote(text)
    raw = text.encode(errors="surrogateescape")
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\x{b:02x}" for b in raw) + "'"
