"""What the name of a file says about the text in it: its language, and what it is for."""

import re
from pathlib import Path
from unicodedata import normalize

from studyctl.contract.identity import Purpose
from studyctl.spec.models import LANGUAGE_NAMES

CODES = frozenset([
    "af", "am", "ar", "az", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de", "el", "en", "eo", "es",
    "et", "eu", "fa", "fi", "fo", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy", "id",
    "ig", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "ku", "ky", "la", "lb", "lg", "ln", "lo", "lt", "lv",
    "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "ny", "oc", "om", "or", "pa", "pl",
    "ps", "pt", "qu", "rn", "ro", "ru", "rw", "sa", "sd", "si", "sk", "sl", "sm", "sn", "so", "sq", "sr", "ss", "st",
    "su", "sv", "sw", "ta", "te", "tg", "th", "ti", "tk", "tl", "tn", "to", "tr", "ts", "tt", "ug", "uk", "ur", "uz",
    "vi", "wo", "xh", "yi", "yo", "zh", "zu",
])  # fmt: skip
"""Of ISO 639-1, as names of files and folders have them."""
ENGLISH_WORDS = frozenset([
    "am", "be", "he", "hi", "id", "is", "it", "la", "lo", "mi", "my", "no", "om", "or", "pa", "so", "to",
])  # fmt: skip
"""Codes that mean something else among other words."""
NAMES = LANGUAGE_NAMES | {
    "deutsch": "de", "español": "es", "espanol": "es", "русский": "ru", "kiswahili": "sw", "中文": "zh", "العربية": "ar",
    "french": "fr", "français": "fr", "francais": "fr", "italian": "it", "italiano": "it", "portuguese": "pt", "português": "pt",
    "portugues": "pt", "dutch": "nl", "nederlands": "nl", "turkish": "tr", "türkçe": "tr", "hindi": "hi", "हिन्दी": "hi",
    "japanese": "ja", "日本語": "ja", "korean": "ko", "한국어": "ko", "polski": "pl", "ukrainian": "uk", "українська": "uk",
}  # fmt: skip
"""What people call languages, in English and in the language."""
PURPOSES: dict[str, Purpose] = {
    **dict.fromkeys(("train", "training", "calib", "calibration"), "calibration"),
    **dict.fromkeys(("test", "valid", "validation", "dev", "eval", "evaluation"), "perplexity"),
}


def language_of(path: Path) -> str | None:
    """Return the language that a path names: ``ar/a.txt``, ``text.de.jsonl``, ``german-1.txt``; None: none."""
    for part in (path.name.rpartition(".")[0], *reversed(path.parts[:-1])):
        for phrase in re.split(r"[^\w\s'’]|[\d_]", normalize("NFC", part)):
            words = phrase.split()
            for word in words:
                is_code = word in CODES and (len(words) == 1 or word not in ENGLISH_WORDS)
                if code := NAMES.get(word.lower(), word if is_code else ""):
                    return code
    return None


def purpose_of(path: Path) -> Purpose | None:
    """Return what a path says that its text is for; None: nothing."""
    words = (word.lower() for part in path.parts for word in re.split(r"[^A-Za-z]+", part))
    return next((PURPOSES[word] for word in words if word in PURPOSES), None)
