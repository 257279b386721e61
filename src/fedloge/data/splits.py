"""Schemes that assign training images to clients and draw local test sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import ConfigError

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def dirichlet(labels: Ints, num_classes: int, num_clients: int, alpha: float, rng: np.random.Generator) -> Ints:
    """Owner of each image: per class, shares p ~ Dirichlet(α); an image goes to client k with probability p_k."""
    owners = np.zeros(len(labels), dtype=np.int64)
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        shares = rng.dirichlet(np.full(num_clients, alpha))
        if not np.isfinite(shares).all() or not shares.sum() > 0:  # every share underflows for very small α
            shares = np.eye(num_clients)[rng.integers(num_clients)]
        owners[members] = rng.choice(num_clients, len(members), p=shares / shares.sum())
    return owners


def dirichlet_paper(labels: Ints, num_classes: int, num_clients: int, alpha: float, seed: int) -> Ints:
    """Owner of each image by the recipe of the published splits, with its legacy generator.

    The unused binomial draw is part of the recipe, since it advances the generator.

    Raises:
        ConfigError: If α is so small that the shares underflow.
    """
    rng = np.random.RandomState(seed)
    rng.binomial(1, 1, (num_clients, num_classes))
    owners = np.zeros(len(labels), dtype=np.int64)
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        shares = rng.dirichlet(np.full(num_clients, alpha))
        if not np.isfinite(shares).all():
            remedy = "Choose a larger alpha, or scheme dirichlet."
            raise ConfigError("data.alpha", alpha, "is too small for scheme dirichlet_paper", remedy)
        owners[members] = rng.choice(num_clients, len(members), p=shares)
    return owners


def iid(labels: Ints, num_clients: int, rng: np.random.Generator) -> Ints:
    """Owner of each image: a random split into parts whose sizes differ by at most one."""
    return rng.permutation(np.arange(len(labels)) % num_clients)


def natural(users: Ints, num_clients: int, rng: np.random.Generator) -> Ints:
    """Owner of each image: all images of a user go to one client.

    With as many clients as users, client k is the k-th user. Fewer clients get users at random, whose numbers differ by
    at most one.
    """
    everybody, positions = np.unique(users, return_inverse=True)
    if len(everybody) == num_clients:
        return positions.astype(np.int64)
    owners: Ints = iid(everybody, num_clients, rng)[positions]
    return owners


def owners_of(users: Ints, train: Sequence[Ints], train_users: Ints) -> Ints:
    """Client of each image whose user has training images, and -1 for all others.

    Args:
        users: User of each image, int64 [n], -1 for an image without one.
        train: Per client, indices of training images, such that no user has images at two clients.
        train_users: User of each training image of the source, int64.
    """
    clients = np.full(max(users.max(initial=-1), train_users.max(initial=-1)) + 2, -1)
    for k, own in enumerate(train):
        clients[train_users[own]] = k
    clients[-1] = -1  # where users without a number point to
    found: Ints = clients[users]
    return found


def repair(owners: Ints, labels: Ints, num_clients: int, min_samples: int, rng: np.random.Generator) -> Ints:
    """Give every client at least ``min_samples`` images, each taken from the client that is largest at the time.

    The image is of that client's most frequent class. Every step adds one missing image, so the loop ends.
    """
    owners = owners.copy()
    sizes = np.bincount(owners, minlength=num_clients)
    for poor in np.flatnonzero(sizes < min_samples):
        while sizes[poor] < min_samples:
            rich = int(np.argmax(sizes))
            own = np.flatnonzero(owners == rich)
            commonest = np.bincount(labels[own]).argmax()
            owners[rng.choice(own[labels[own] == commonest])] = poor
            sizes[poor] += 1
            sizes[rich] -= 1
    return owners


def hold_out(labels: Ints, fraction: float, rng: np.random.Generator, groups: Ints | None = None) -> Mask:
    """Mark images to hold out, stratified by class; a class keeps at least one image, so that it can be learned.

    Args:
        labels: Class of each image, int64 [n].
        fraction: Share to hold out, in [0, 1).
        rng: Random generator.
        groups: Group of each image, int64 [n], a patient for example: a group is held out as a whole, or not at all.
            Groups are taken in random order while that brings the class counts closer to the wanted ones. If none
            does, the group that misses them least is taken, and one group always stays.

    Returns:
        Boolean [n].
    """
    wanted = _wanted(np.bincount(labels), fraction, rng)
    if groups is not None:
        return _hold_out_groups(labels, groups, wanted, rng)
    held = np.zeros(len(labels), dtype=bool)
    for c in np.flatnonzero(wanted):
        held[rng.choice(np.flatnonzero(labels == c), wanted[c], replace=False)] = True
    return held


def _wanted(counts: Ints, fraction: float, rng: np.random.Generator) -> Ints:
    """Whole numbers of images per class whose sum is the rounded share of all, as close to the shares as possible."""
    shares = fraction * counts
    wanted: Ints = np.minimum(np.floor(shares).astype(np.int64), (counts - 1).clip(min=0))
    missing = int(fraction * counts.sum() + 0.5) - int(wanted.sum())
    order = np.lexsort((rng.random(len(counts)), wanted - shares))
    order = order[wanted[order] < counts[order] - 1][: max(missing, 0)]
    wanted[order] += 1
    return wanted


def _hold_out_groups(labels: Ints, groups: Ints, wanted: Ints, rng: np.random.Generator) -> Mask:
    names, positions = np.unique(groups, return_inverse=True)
    counts = count_matrix(positions, labels, len(names), len(wanted))
    left, chosen = wanted.copy(), np.zeros(len(names), dtype=bool)
    for group in rng.permutation(len(names)):
        if _distance(left - counts[group]) < _distance(left) and chosen.sum() < len(names) - 1:
            chosen[group], left = True, left - counts[group]
    if wanted.any() and not chosen.any() and len(names) > 1:
        chosen[np.argmin(_distance(wanted - counts))] = True
    held: Mask = chosen[positions]
    return held


def _distance(differences: Ints) -> Ints:
    squares: Ints = (differences**2).sum(-1)
    return squares


def count_matrix(owners: Ints, labels: Ints, num_clients: int, num_classes: int) -> Ints:
    """Class counts n_{k,c}, int64 [K, C]."""
    cells = np.bincount(owners * num_classes + labels, minlength=num_clients * num_classes)
    return cells.reshape(num_clients, num_classes).astype(np.int64)


def local_test_counts(counts: Ints, test_labels: Ints) -> Ints:
    """Test images per client and class, ⌊n_test · n_{k,c} / N⌋; 0 for a class that the test set lacks.

    Args:
        counts: Class counts n_{k,c} of the training images, int64 [K, C].
        test_labels: Class of each image of the global test set, int64 [n_test].

    Returns:
        int64 [K, C].
    """
    wanted: Ints = len(test_labels) * counts // counts.sum()
    wanted[:, np.bincount(test_labels, minlength=counts.shape[1]) == 0] = 0
    return wanted


def local_tests(wanted: Ints, test_labels: Ints, rng: np.random.Generator) -> tuple[Ints, ...]:
    """Draw every client's test images from the global test set, independently of the other clients.

    If a client wants more images of a class than the test set has, all of them are repeated as often as they fit and
    the rest is drawn, so that the test distribution keeps the shape of the training distribution.

    Args:
        wanted: Test images per client and class, int64 [K, C].
        test_labels: Class of each test image, int64 [n_test]; contains every wanted class.
        rng: Random generator.

    Returns:
        Per client, indices of test images.
    """
    members = [np.flatnonzero(test_labels == c) for c in range(wanted.shape[1])]
    return tuple(_draw(row, members, rng) for row in wanted)


def _draw(row: Ints, members: Sequence[Ints], rng: np.random.Generator) -> Ints:
    parts = [np.zeros(0, dtype=np.int64)]
    for count, own in zip(row.tolist(), members, strict=True):
        passes, rest = divmod(count, max(len(own), 1))
        parts += [own] * passes + [np.sort(rng.choice(own, rest, replace=False))]
    return np.concatenate(parts)
