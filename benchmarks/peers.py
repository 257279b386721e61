"""Make the environments that peers need: ``python -m benchmarks.peers pfl flwr``.

Each gets ``benchmarks/.venvs/PEER`` with what ``benchmarks/requirements/PEER.txt`` lists, a torch of its own included.
fedloge's networks, which every contender uses, come from this checkout and need nothing more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections.abc import Sequence

from benchmarks.contenders import CONTENDERS
from benchmarks.run import ENVIRONMENTS

PEERS = sorted({contender.peer for contender in CONTENDERS.values() if contender.peer})


def main(arguments: Sequence[str] | None = None) -> int:
    """Make them one after the other; pip's own index settings apply."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("peers", nargs="+", choices=PEERS)
    for peer in parser.parse_args(arguments).peers:
        folder = ENVIRONMENTS / peer
        venv.create(folder, with_pip=True)
        requirements = ENVIRONMENTS.parent / "requirements" / f"{peer}.txt"
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-r", str(requirements)]
        if subprocess.run(pip).returncode:
            print(f"error: {peer} could not be installed; pip says why above", file=sys.stderr)
            return 1
        print(f"{folder} is ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
