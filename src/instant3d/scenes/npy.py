"""Safe reading of small untrusted NumPy files as float64 arrays.

Nothing is unpickled, and memory is limited whatever a header or an archive declares.
"""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np

from instant3d.utils.errors import LIBRARY_ERRORS

MAX_BYTES = 2**24  # of one array: more than 100,000 matrices

Array = np.ndarray


def read_npy(data: bytes, where: str) -> Array:
    """Read the array of an .npy file as float64.

    Args:
        data: The file's content.
        where: Its name for error messages.

    Raises:
        ValueError: It is broken, too large, not numeric, or holds a number that is not finite.
    """
    try:
        shape, _, dtype = read_header(io.BytesIO(data))
        if dtype.kind not in "fiu":
            raise ValueError(f"holds {dtype}, not numbers")
        if math.prod(shape) * dtype.itemsize > MAX_BYTES:
            raise ValueError(f"declares the shape {shape}, which is larger than {MAX_BYTES} bytes")
        array = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError("holds a number that is not finite (NaN or infinite)")
    except LIBRARY_ERRORS as error:
        raise ValueError(f"{where} is not a usable .npy file: {error}; export it again") from error
    return array


def read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an .npy file; the stream is then where its numbers begin.

    Returns:
        Shape, whether the order is Fortran's, and type.

    Raises:
        ValueError: It is no such header.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(stream)
    except (MemoryError, RecursionError):  # of Python's parser; a header takes no memory
        pass
    raise ValueError("its header is nested too deeply")


def read_npz(data: bytes, name: str, where: str) -> Array:
    """Read one array of an .npz file as float64.

    Args:
        data: The file's content.
        name: Name of the array.
        where: The file's name for error messages.

    Raises:
        ValueError: There is no such array, or as for `read_npy`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(f"{name}.npy") as file:
            content = file.read(MAX_BYTES + 1024)
    except KeyError as error:
        raise ValueError(f"{where} has no array {name!r}; is it of another layout?") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, *LIBRARY_ERRORS) as error:
        raise ValueError(f"{where} is not a usable .npz file: {error}; export it again") from error
    return read_npy(content, f"{name} of {where}")
