"""What a checkpoint file must be before its numbers may be used: whole to the last bit, and finite."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from ..wording import counted

WEIGHTS = ('state_dict', 'ema_state_dict')  # where MMEngine keeps them
SIGNATURES = {b'PK\x03\x04': 'zip', b'PK\x05\x06': 'zip'}  # the latter is of a zip file without content


class DamagedCheckpointError(ValueError):
    """A checkpoint that is truncated, damaged, spoilt by NaN, or no checkpoint at all."""


class NonFiniteWeightsError(DamagedCheckpointError):
    """A checkpoint with weights that are NaN or infinite."""


def check_records(file: IO[bytes], name: str) -> bool:
    """Compare every record of a checkpoint with the checksum (CRC-32) that was written beside it.

    torch.load itself does not look at them.

    Args:
        file: The checkpoint, open; its position afterwards is the beginning.
        name: Its name, for messages.

    Returns:
        Whether it is a zip file, as torch writes since version 1.6; those before have no checksums.

    Raises:
        DamagedCheckpointError: It is truncated, damaged, or no checkpoint. Names the record.
    """
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    if head not in SIGNATURES:
        if head[:1] == b'\x80':  # a pickle
            return False
        if name.endswith('.safetensors'):
            raise DamagedCheckpointError(
                f'{name}: files of safetensors are not read here; write it anew by torch.save(dict(state_dict='
                'safetensors.torch.load_file(FILE)), NEW_FILE)'
            )
        what = 'it is empty' if size == 0 else 'it is another kind of file'
        raise DamagedCheckpointError(f'{name}: this is not a checkpoint ({what}); give a file that torch.save wrote')
    if not zipfile.is_zipfile(file):
        raise DamagedCheckpointError(f'{name}: the checkpoint is truncated (its end is missing); use an earlier one')
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if not any(record.filename.endswith('data.pkl') for record in records):
                raise DamagedCheckpointError(
                    f'{name}: this is a zip file, but no checkpoint; give a file that torch.save wrote'
                )
            # without any checksum it was written under torch.serialization.set_crc32_options(False)
            broken = archive.testzip() if any(record.CRC for record in records) else None
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DamagedCheckpointError(f'{name}: the checkpoint is damaged ({error}); use an earlier one') from error
    if broken is not None:
        raise DamagedCheckpointError(
            f'{name}: the checkpoint is damaged: its record {broken} is not what was written (checksum CRC-32). Use an '
            'earlier one, or fetch it again'
        )
    file.seek(0)
    return True


def tensors_of(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Every tensor below dicts, lists and tuples, with its path; names of one dict are joined by dots."""
    import torch

    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from tensors_of(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from tensors_of(value, f'{path}.{index}' if path else str(index))


def not_finite(tensor: Any, infinite: bool = True) -> int:
    """The number of values that are NaN or, if asked for, infinite; types of numbers without these have none."""
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout != torch.strided:
        return 0
    if tensor.is_floating_point() and tensor.element_size() == 1:  # float8 has no test of its own
        tensor = tensor.float()
    return int((~torch.isfinite(tensor) if infinite else torch.isnan(tensor)).sum())


def check_finite(checkpoint: Any, name: str) -> None:
    """Refuse weights that are not finite, those of the optimiser included.

    Where nothing but its name tells what a tensor is, an infinity is refused in what is called weight or bias: a buffer
    may hold one on purpose, an attention mask for instance. NaN is refused everywhere.

    Args:
        checkpoint: What the file holds.
        name: Its name, for messages.

    Raises:
        NonFiniteWeightsError: Names the first tensor.
    """
    if not isinstance(checkpoint, Mapping):
        return
    known = [key for key in (*WEIGHTS, 'optimizer') if isinstance(checkpoint.get(key), Mapping)]
    for part in known or ['']:
        for path, tensor in tensors_of(checkpoint[part] if part else checkpoint):
            bad = not_finite(tensor, part in ('', *WEIGHTS) and path.endswith(('weight', 'bias')))
            if bad:
                refuse_tensor(name, f'{part}: {path}' if part == 'optimizer' else path, bad)


def refuse_tensor(name: str, tensor: str, bad: int) -> None:
    """Say of a checkpoint that a tensor in it is not finite.

    Raises:
        NonFiniteWeightsError: Always.
    """
    raise NonFiniteWeightsError(
        f'{name}: {tensor} has {counted(bad, "value")} not finite (NaN or infinite), so that whatever is computed with '
        'it means nothing. Use an earlier checkpoint, from before the training diverged'
    )
