import json
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_examples_of_the_guide_run(tmp_path):
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["my_method.py", "my_data.py", "my_backbone.py", "mine.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "fedloge", "fit", "--config", "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert summary["global"] is None
    assert summary["personal"]["acc_mean"] > 0.8
    assert "head.weight" not in (tmp_path / "runs/mine/checkpoints/last/shared.safetensors").read_bytes().decode(
        "latin1"
    )
    command[3:] = ["test", "runs/mine"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
