"""Reading furniture libraries of Sweet Home 3D (`.sh3f`): catalogue and model files, opened safely.

A library is a zip with `PluginFurnitureCatalog.properties` in Java's format, a LICENSE.TXT, and one folder a model.
Some folders hold the notice that the model came with; it counts more than the library's licence.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from instant3d.mesh.untrusted import TooLarge
from instant3d.utils import prompts

from ..manifests.licences import spdx
from ..manifests.object_manifest import SAFE_ID, Row

CATALOGUE = "PluginFurnitureCatalog.properties"
MAX_MEMBERS = 100_000
MAX_TEXT_BYTES = 2**24  # of a catalogue or a notice
MAX_MODEL_BYTES = 2**29  # of all files of a model, unpacked
NOTICE = re.compile(r"licen[cs]e\.(txt|html?)", re.IGNORECASE)
DEED = re.compile(r"https?://(?:www\.)?creativecommons\.org/[^\s\"'<>)]+", re.IGNORECASE)
TERMS = re.compile(r"(?:released under|following license:)\s*(?:<[^>]{0,999}>\s*)*([^<\r\n]{1,200})", re.IGNORECASE)
PAGE = re.compile(r"https?://(?:www\.)?blendswap\.com/blends?/(?:view/)?\d+", re.IGNORECASE)
REFERENCE = re.compile(rb"(?m)^[ \t]*(mtllib|map_\w+|bump|disp|decal|refl|norm)[ \t](.*)$")
FOLLOWED = (b"mtllib", b"map_Kd")  # of images those of the colours
HOLDER = re.compile(r"(?:©|\(c\))\s*(?:\d{4}\s*[-–,]?\s*)*(\S.*)", re.IGNORECASE)

CORRECTED = {  # names in Debian's libraries that are another language's, or misspelt, by the piece's own id
    "Kator Legaz#trunk-large": "trunk",
    "Scopia#barnum": "canopy tent",
    "Scopia#cendrier": "ashtray",
    "Scopia#chaussette": "sock",
    "Scopia#flipper": "pinball machine",
    "Scopia#kitchen_tool1": "kitchen spoon",
    "Scopia#kitchen_tool2": "ladle",
    "Scopia#kitchen_tool3": "spatula",
    "Scopia#kitchen_tool4": "spaghetti server",
    "Scopia#littlebank": "small bench",
    "Scopia#parque": "playground",
    "Scopia#penbox": "pen holder",
    "Scopia#puff": "bean bag",
    "Scopia#short-shadows": "shorts",
    "Scopia#wood_bank": "wooden bench",
}


@dataclass(frozen=True)
class Piece:
    """One piece of furniture.

    Attributes:
        row: Its row of the manifest without `file`.
        library: The library's file.
        model: Name of the file in the library.
        rotation: Nine numbers in one text, a matrix by rows, in the file's axes (+y up).
        size: Width, depth and height, centimetres.
    """

    row: Row
    library: Path
    model: str
    rotation: str
    size: tuple[str, str, str]


class Library:
    """An open library. `with Library(path) as library` closes it."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no furniture library {path}; name .sh3f files or folders of such")
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no .sh3f library ({error}); get it again") from error
        self.path = path
        self.members = {info.filename: info for info in self.zip.infolist() if not info.is_dir()}
        if CATALOGUE not in self.members or len(self.members) > MAX_MEMBERS:
            raise ValueError(
                f"{path} is no .sh3f library; expected a {CATALOGUE} and at most {MAX_MEMBERS} files in it"
            )
        self.notices = {str(PurePosixPath(name).parent): name for name in self.members if NOTICE.search(name)}

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def read(self, name: str, limit: int) -> bytes:
        """A file of at most `limit` bytes."""
        info = self.members.get(name)
        if info is None:
            raise ValueError(f"{self.path.name} does not hold {name!r}")
        if info.file_size > limit:
            raise TooLarge(f"{name} of {self.path.name} takes {info.file_size} bytes; at most {limit} are taken")
        try:
            with self.zip.open(info) as file:
                return file.read(info.file_size + 1)  # a wrong size takes no more memory than it states
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
            raise ValueError(f"{name} of {self.path.name} cannot be unpacked ({error})") from error

    def pieces(self) -> Iterator[Piece]:
        """All that the catalogue lists, in its order."""
        words = properties(_text(self.read(CATALOGUE, MAX_TEXT_BYTES)))
        licence, holder = self._licence(words), HOLDER.search(words.get("license", ""))
        numbered: dict[int, dict[str, str]] = defaultdict(dict)
        for key, value in words.items():
            if match := re.fullmatch(r"(\w+)#(\d{1,9})", key):
                numbered[int(match[2])][match[1]] = value
        for number, piece in sorted(numbered.items()):
            if "model" in piece:
                yield self._piece(piece, number, licence, holder[1].strip() if holder else None)

    def unpack(self, model: str, folder: Path) -> Path:
        """Write a model, its materials and the images of their colours into `folder`; the model's new place.

        Only files in the model's own folder or below are written. What a file names beyond these is taken out of it, so
        that the object keeps its plain colours, as in Sweet Home 3D.
        """
        root, waiting, written, left = PurePosixPath(model).parent, [model], set[str](), MAX_MODEL_BYTES
        while waiting:
            name = waiting.pop()
            if name in written:
                continue
            data = self.read(name, left)
            written.add(name)
            left -= len(data)
            data, named = self._followed(data, PurePosixPath(name), root)
            place = folder / PurePosixPath(name).relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            waiting += named
        return folder / PurePosixPath(model).name

    def _followed(self, data: bytes, name: PurePosixPath, root: PurePosixPath) -> tuple[bytes, list[str]]:
        """An .obj or .mtl without the lines that name files which are not there, and the files that others name."""
        named: list[str] = []

        def kept(line: re.Match[bytes]) -> bytes:
            reference = line[2].decode("utf-8", "replace").strip().replace("\\", "/")
            file = posixpath.normpath(name.parent / reference)
            inside = PurePosixPath(file).is_relative_to(root) and ".." not in file.split("/")
            if line[1] not in FOLLOWED or file not in self.members or not inside:
                return b""
            named.append(file)
            return line[0]

        if name.suffix.lower() in (".obj", ".mtl"):
            data = REFERENCE.sub(kept, data)
        return data, named

    def _piece(self, piece: dict[str, str], number: int, licence: str | None, holder: str | None) -> Piece:
        model, name = piece["model"].strip().lstrip("/"), piece.get("name", "").strip()
        uid = piece.get("id") or f"{self.path.stem}#{number}"
        notice = self._notice(model)
        terms, page = TERMS.search(notice), PAGE.search(notice)
        words = CORRECTED.get(uid) or caption(name)
        row = {
            "id": _id(uid),
            "uid": uid,
            "source": f"sweethome3d/{self.path.stem}",
            "license": spdx(terms[1]) if terms else licence,
            "captions": [] if prompts.prompt_error(words) else [words],
            "name": name or None,
            "author": holder or piece.get("creator", "").strip() or None,
            "url": page[0] if page else None,
            "category": piece.get("category", "").strip() or None,
        }
        size = (piece.get("width", ""), piece.get("depth", ""), piece.get("height", ""))
        return Piece(row, self.path, model, piece.get("modelRotation", "1 0 0 0 1 0 0 0 1"), size)

    def _licence(self, words: dict[str, str]) -> str | None:
        """Of the whole library: the deed that LICENSE.TXT names first, or the catalogue's words."""
        name = next((name for name in self.members if name.lower() == "license.txt"), None)
        deed = DEED.search(_text(self.read(name, MAX_TEXT_BYTES))) if name else None
        return spdx(deed[0] if deed else re.split(r"©|\(c\)|copyright", words.get("license", ""), flags=re.I)[0])

    def _notice(self, model: str) -> str:
        """Text of the notice beside a model; beside the catalogue lies the library's own licence."""
        name = self.notices.get(str(PurePosixPath(model).parent)) if "/" in model else None
        return _text(self.read(name, MAX_TEXT_BYTES)) if name else ""


def properties(text: str) -> dict[str, str]:
    """Keys and values of Java's format: `key = value`, `#` or `!` comments, lines that go on after a backslash."""
    text = re.sub(r"(?m)^[ \t\f]*[#!].*$", "", text)
    text = re.sub(r"(?<!\\)((?:\\\\)*)\\(?:\r\n|\r|\n)[ \t\f]*", r"\1", text)
    found = {}
    for line in re.split(r"[\r\n]+", text):
        match = re.fullmatch(r"((?:\\.|[^\\=: \t\f])+)[ \t\f]*[=:]?[ \t\f]*(.*)", line.lstrip(" \t\f"))
        if match:
            found[_unescaped(match[1])] = _unescaped(match[2])
    return found


def caption(name: str) -> str:
    """A caption from a name: lower case except for abbreviations, without a trailing number."""
    name = re.sub(r"\s+(\d{1,2}$|0\d\b|#\d+)", "", " ".join(name.split()))
    return re.sub(
        r"[^\W\d_]+", lambda word: word[0].lower() if word[0].istitle() and len(word[0]) > 1 else word[0], name
    )


def _unescaped(text: str) -> str:
    controls = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}

    def one(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else controls.get(match[2], match[2])

    text = re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", one, text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two escapes may be one sign


def _text(data: bytes) -> str:
    """As Java reads it: UTF-8, or else Latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _id(uid: str) -> str:
    """A valid folder name, made unique by a hash if characters are replaced."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", uid.replace("#", "__")).lstrip(".-")[:180]
    fits = uid.isascii() and SAFE_ID.fullmatch(plain) and len(uid) < 180
    return plain if fits else f"{plain}-{hashlib.sha256(uid.encode()).hexdigest()[:6]}".lstrip("-")
