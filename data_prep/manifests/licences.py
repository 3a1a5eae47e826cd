"""SPDX identifiers of licences, and which licences allow images of an object to be redistributed.

Not legal advice: a row of the manifest keeps the licence, so that everyone can judge.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

Allowed = Callable[[str | None], bool]  # takes an SPDX identifier, another name of a licence, or None for unknown

# Whoever has the object may pass it and images of it on, for any purpose, if its author is named; images of what is
# under CC-BY-SA stay under CC-BY-SA. Not among them: NC (no commercial use), ND (an image is an adaptation), copyleft
# of programs (what is the source code of an image?), and what names no licence.
REDISTRIBUTABLE = re.compile(
    r"CC0-1\.0|CC-BY(-SA)?-\d\.\d|CC-BY-3\.0-US|MIT|MIT-0|0BSD|BSD-[23]-Clause|Apache-2\.0|ISC|Zlib|Unlicense|BSL-1\.0"
)
GROUPS = ("redistributable", "all")

WORDS = {  # in small letters without punctuation, as GitHub names licences
    "mit license": "MIT",
    "mit no attribution": "MIT-0",
    "apache license 2 0": "Apache-2.0",
    "apache 2 0": "Apache-2.0",
    "bsd 2 clause simplified license": "BSD-2-Clause",
    "bsd 3 clause new or revised license": "BSD-3-Clause",
    "bsd zero clause license": "0BSD",
    "isc license": "ISC",
    "zlib license": "Zlib",
    "the unlicense": "Unlicense",
    "boost software license 1 0": "BSL-1.0",
    "creative commons public domain dedication": "CC0-1.0",
    "creative commons zero public domain": "CC0-1.0",
}
SPDX = ("MIT", "MIT-0", "0BSD", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "Zlib", "Unlicense", "BSL-1.0")
IDENTIFIERS = {name.lower(): name for name in SPDX}
TERMS = ("by", "nc", "nd", "sa")  # in SPDX's order, but for SA after ND, which exclude each other


@functools.cache
def spdx(name: str | None) -> str | None:
    """The SPDX identifier of a licence by any of its usual names; an unknown name is kept, no name is None.

    Creative Commons' name without a version (`by-sa`, as Objaverse writes) is 4.0, as the data set's card says.
    """
    text = " ".join((name or "").split())
    if not text:
        return None
    if text.lower() in IDENTIFIERS:
        return IDENTIFIERS[text.lower()]
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    return WORDS.get(words) or _creative_commons(text) or text


def _creative_commons(name: str) -> str | None:
    """`by-nc`, `CC BY 3.0`, `Creative Commons - Attribution - ShareAlike`, or a URL of the licence's deed."""
    text = name.lower()
    if re.fullmatch(r"(https?://)?(www\.)?creativecommons\.org/(publicdomain/zero/1\.0|choose/zero)(/\S*)?", text):
        return "CC0-1.0"
    if re.fullmatch(r"(cc0|creative commons zero)([\s_-]+(v?1\.0|universal|public domain|dedication|license))*", text):
        return "CC0-1.0"
    text = re.sub(r"non[- ]?commercial", "nc", re.sub(r"share[- ]?alike", "sa", re.sub(r"no[- ]?deriv\w*", "nd", text)))
    text = text.replace("attribution", "by")
    shape = r"(?:https?://)?(?:www\.)?(?:creativecommons\.org/licenses/|creative commons|cc)?[\s_-]*"
    shape += r"(by(?:[\s_-]+(?:nc|nd|sa))*)(?:[\s_/-]*v?([1-4]\.\d))?"
    shape += r"(?:[\s_/-]*(us|united states))?"
    shape += r"(?:[\s/]*(?:international|unported|generic|license|deed\S*|legalcode\S*)){0,2}/?"
    found = re.fullmatch(shape, text)
    if found is None or (found[3] and (found[1], found[2]) != ("by", "3.0")):  # SPDX lists one licence of the US
        return None
    terms = set(re.findall("[a-z]+", found[1]))
    parts = ["CC", *(term.upper() for term in TERMS if term in terms), found[2] or "4.0"]
    return "-".join([*parts, "US"] if found[3] else parts)


def deed(licence: str) -> str | None:
    """The page of a Creative Commons licence by its SPDX identifier; None for other licences."""
    if licence == "CC0-1.0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    found = re.fullmatch(r"CC-(BY(?:-NC)?(?:-ND|-SA)?)-(\d\.\d)(-US)?", licence)
    if found is None:
        return None
    return f"https://creativecommons.org/licenses/{found[1].lower()}/{found[2]}/{'us/' if found[3] else ''}"


def allowed(choice: str) -> Allowed:
    """A test of licences from a user's choice: `all`, `redistributable`, or names of licences, several with commas."""
    chosen = [part.strip() for part in choice.split(",") if part.strip()]
    if not chosen:
        raise ValueError(
            f"no licence is named by {choice!r}; expected {' or '.join(GROUPS)}, or names such as CC-BY-4.0"
        )
    if "all" in chosen:
        return lambda name: True
    names = {spdx(part) for part in chosen if part not in GROUPS}
    group = "redistributable" in chosen
    return lambda name: name in names or bool(group and name and REDISTRIBUTABLE.fullmatch(name))
