import json
import os
import random
import shutil

import pytest
import torch

from fedloge.errors import RunError
from fedloge.runs.folder import RunFolder


@pytest.mark.parametrize("file", ["shared.safetensors", "clients.safetensors", "state.json"])
def test_no_corruption_loads_silently(whole, tmp_path, file):
    """Seventy random corruptions of each file: flipped bits, lost ends, foreign bytes."""
    chance = random.Random(file)
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last" / file
    good = path.read_bytes()
    meaning = json.loads(good) if file == "state.json" else None
    for number in range(70):
        bad = bytearray(good)
        match number % 3:
            case 0:
                position = chance.randrange(len(bad))
                bad[position] ^= 1 << chance.randrange(8)
            case 1:
                del bad[chance.randrange(len(bad)) :]
            case _:
                start = chance.randrange(len(bad))
                bad[start : start + 16] = chance.randbytes(16)
        if meaning is not None:
            try:
                if json.loads(bad) == meaning:
                    continue  # white space
            except ValueError:
                pass
        path.write_bytes(bad)
        with pytest.raises(RunError, match=file):
            RunFolder(tmp_path / "run").checkpoints.load("last")


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "name",
    ["checkpoints/last/shared.safetensors", "checkpoints/last/clients.safetensors", "checkpoints/last/state.json"],
)
def test_nothing_executes_from_a_file(whole, tmp_path, name, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(RunError):
        RunFolder(tmp_path / "run").checkpoints.load("last")
    torch.save({"x": Payload()}, tmp_path / "run" / name)
    with pytest.raises(RunError):
        RunFolder(tmp_path / "run").checkpoints.load("last")
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "run")
    checkpoints = RunFolder(tmp_path / "run").checkpoints
    state, info = checkpoints.load("last"), checkpoints.read_info("last")
    monkeypatch.setattr(
        "fedloge.runs.checkpoint.write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(RunError, match="cannot be written: No space left"):
        checkpoints.save("last", state, {})
    assert checkpoints.read_info("last") == info
    assert not (tmp_path / "run" / "checkpoints" / ".new-last").exists()
