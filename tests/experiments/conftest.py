"""A small study as files."""

import pytest
import yaml

MINE = """
title: Mine
paper: somewhere else
scales: {tiny: scale.yaml}
reach: {tiny: 0.05}
measures: [GM, PM, GM as trained, first round]
settings:
  mild: {options: {data.imbalance_factor: 5}}
  full only: {scales: {tiny: null, full: scale.yaml}}
rows:
  FedAvg: {method: FedAvg, printed: {mild: {GM: 0.1234}}}
  FedPer: {method: FedPer}
  broken: {method: FedRep, options: {head_epochs: 0}}
  FedLoGe: {}
  no GA-FR: {realign: {ga: false}}
"""
SCALE = """
about: a test
seeds: [0, 1]
trainer: {rounds: 2, local_epochs: 1, threads: 1, accelerator: cpu}
model: {init_args: {backbone: {class_path: SmallCNN, init_args: {channels: [32], in_channels: 1}}}}
data: {source: Digits, num_clients: 3, batch_size: 32, augment: none}
methods: {FedLoGe: {gamma: 1.0}}
"""


@pytest.fixture(scope="session")
def written():
    """Writes the study, with changes, and its scale into a folder; returns the study's file."""

    def write(folder, **changes):
        (folder / "scale.yaml").write_text(SCALE)
        path = folder / "mine.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(MINE) | changes, allow_unicode=True, sort_keys=False))
        return path

    return write
