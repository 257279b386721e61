"""A whole run of a second or two, in a module of its own so that child processes find it, and a way to compare runs."""

import csv
import json
import multiprocessing
import os
import pathlib
import shutil
import time

import torch
from lightning import seed_everything

from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.methods import FedLoGe
from fedloge.models import SmallCNN
from fedloge.runs.folder import RunFolder
from fedloge.trainer import FederatedTrainer


def run_tiny(folder, ckpt_path=None, method=None, data=None, **options):
    """FedLoGe with fine-tuning on three clients, five rounds; returns the trainer."""
    seed_everything(0, verbose=False)
    settings = {"rounds": 5, "local_epochs": 1, "evaluate_every": 2, "checkpoint_every": 1, "participation": 0.7}
    trainer = FederatedTrainer(**settings | {"accelerator": "cpu", "run_dir": str(folder)} | options)
    method = method or FedLoGe(SmallCNN((6,), in_channels=1), 3, beta=0.3, gamma=1.0, finetune_epochs=1)
    data = data or FederatedDataModule(tiny_source(), num_clients=3, imbalance_factor=4, batch_size=16, alpha=1.0)
    trainer.fit(method, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def die_at(call, folder, ckpt_path):
    """Run, and die by SIGKILL's exit at the given call of fsync, rename, replace or rmtree: every step of a save."""
    count = 0

    def mortal(function):
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count == call:
                os._exit(9)
            return function(*args, **kwargs)

        return wrapper

    os.fsync, os.replace = mortal(os.fsync), mortal(os.replace)
    pathlib.Path.rename, shutil.rmtree = mortal(pathlib.Path.rename), mortal(shutil.rmtree)
    torch.set_num_threads(1)
    run_tiny(folder, ckpt_path)


def hold_lock(folder):
    """Take a folder's lock and keep it."""
    with RunFolder(folder).locked():
        (folder / "held").touch()
        time.sleep(60)


def child(target, *arguments):
    """Start a function of this module in a process that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedloge.config", "sklearn"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def content(folder):
    """Everything that a run left, without times, by file."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"):
        name = str(path.relative_to(folder))
        if name.startswith("checkpoints/previous") or name in ("environment.json", "config.yaml", "report.html"):
            continue
        if path.suffix == ".csv":
            rows = list(csv.DictReader(path.open(newline="")))
            found[name] = [{key: value for key, value in row.items() if key != "time/round_s"} for row in rows]
        elif path.suffix == ".json":
            found[name] = json.loads(path.read_text())
            for key in ("seconds", "row", "sha256"):
                found[name].pop(key, None)
        else:
            found[name] = path.read_bytes()
    return found
