import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.data.longtail import long_tail
from fedloge.data.partition import Partition, local_tests, make_partition
from fedloge.data.splits import hold_out
from fedloge.errors import ConfigError, DataError

PUBLISHED = {  # sha256 of the client x class matrices, training and local test, as JSON
    (50, 0.5): (
        "97ef9075c69481f08b7c25cd7e2d23dd80d9494e0db24c98006d20d617ba3f7d",
        "cad4788e3116be840313867496a32191debb966f96b7222f720479fd28b84406",
    ),
    (100, 0.5): (
        "8501e792bc8bc9f20c2176791f4f0eb6eb6e2633fcdd931d603322d7504145f3",
        "bf6bba4673a0266307be1a97efa224fb3bd9f18764d7be22404d117154b246f8",
    ),
    (50, 1.0): (
        "8c09ded7975412d4aeb06d8ef7888bbafec0595f61f4dbddba16e1f9f473495a",
        "99e0562f822b13ce8f0e42936c6f9c1488e48b9f2401fde0aa06c7b009ced731",
    ),
    (100, 1.0): (
        "9ca18f4bdc241ea50702c93de1e15baafe987e6e76de9a5e9cb66dcd9772a125",
        "75e7964674452a443ff691348f600f80aa37a733489b04b345218c607f0fbb76",
    ),
}


def published(factor, alpha):
    train, test = np.repeat(np.arange(10), 5000), np.repeat(np.arange(10), 1000)
    return split(train, test, factor=factor, scheme="dirichlet_paper", num_clients=40, alpha=alpha, shuffle=0)


def split(train, test, *, factor=1.0, shuffle=1, seed=3407, min_samples=1, alpha=0.5, **options):
    num_classes = int(train.max()) + 1
    kept = long_tail(train, num_classes, factor, "exponential", shuffle)
    settings = {"alpha": alpha, "imbalance_factor": factor, "min_samples": min_samples, "seed": seed}
    return make_partition(train, kept, test, num_classes, **settings, **options)


@pytest.mark.parametrize("setting", PUBLISHED)
def test_published_matrices(setting):
    partition = published(*setting)
    hashes = [
        hashlib.sha256(json.dumps(matrix.tolist()).encode()).hexdigest()
        for matrix in (partition.train_counts, partition.test_counts)
    ]
    assert tuple(hashes) == PUBLISHED[setting]


@pytest.mark.parametrize("setting", PUBLISHED)
def test_published_matrices_entry_by_entry(setting, reference):
    factor, alpha = setting
    expected = reference("cifar10_partitions")["partitions"][f"cifar10_IF{factor}_alpha{alpha}_K40"]
    partition = published(factor, alpha)
    assert partition.train_counts.tolist() == expected["train_matrix_client_x_class"]
    assert partition.test_counts.tolist() == expected["local_test_matrix_client_x_class"]


@settings(max_examples=50, deadline=None)
@given(
    scheme=st.sampled_from(["dirichlet", "iid"]),
    sizes=st.lists(st.integers(8, 40), min_size=2, max_size=6),
    num_clients=st.integers(1, 8),
    alpha=st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 1e6]),
    min_samples=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_any_split_is_disjoint_complete_and_repeatable(scheme, sizes, num_clients, alpha, min_samples, seed):
    train, test = np.repeat(np.arange(len(sizes)), sizes), np.repeat(np.arange(len(sizes)), 10)
    options = {"scheme": scheme, "num_clients": num_clients, "alpha": alpha, "min_samples": min_samples, "seed": seed}
    partition = split(train, test, **options)
    assert sorted(np.concatenate(partition.train)) == list(range(len(train)))
    assert min(len(own) for own in partition.train) >= min_samples
    assert partition.sha256 == split(train, test, **options).sha256
    for own, counts in zip(partition.train, partition.train_counts, strict=True):
        assert np.bincount(train[own], minlength=len(sizes)).tolist() == counts.tolist()
    for own, counts in zip(partition.test, partition.test_counts, strict=True):
        assert np.bincount(test[own], minlength=len(sizes)).tolist() == counts.tolist()


def test_local_test_counts_on_paper():
    """20 test images, 12 training images of which client 0 holds all 8 of class 0: ⌊20·8/12⌋ = 13 of 10 there are."""
    train, test = np.array([0] * 8 + [1] * 4), np.repeat([0, 1], 10)
    partition = split(train, test, scheme="iid", num_clients=1)
    assert partition.test_counts.tolist() == [[13, 6]]
    own = partition.test[0]
    assert np.bincount(own)[:10].tolist().count(2) == 3  # three images twice, seven once
    assert set(np.bincount(own)[:10]) == {1, 2}


def test_local_tests_have_no_repeats_where_there_are_enough():
    (own,) = local_tests(np.array([[7, 0]]), np.repeat([0, 1], 10), np.random.default_rng(0))
    assert len(set(own.tolist())) == len(own) == 7


def test_a_class_without_test_images_is_left_out_of_local_tests():
    train, test = np.repeat([0, 1], 10), np.zeros(20, dtype=np.int64)
    partition = split(train, test, scheme="iid", num_clients=1)
    assert partition.test_counts.tolist() == [[10, 0]]
    assert len(partition.test[0]) == 10


def test_natural_clients_are_the_users():
    train, users = np.repeat([0, 1], [7, 5]), np.array([3, 3, 9, 9, 9, 4, 4, 4, 4, 9, 3, 4])
    partition = split(train, train, scheme="natural", num_clients=3, users=users)
    assert sorted(sorted(own.tolist()) for own in partition.train) == [[0, 1, 10], [2, 3, 4, 9], [5, 6, 7, 8, 11]]
    assert partition.train_counts.sum(0).tolist() == [7, 5]


def test_users_are_dealt_to_fewer_clients_by_the_seed():
    rng = np.random.default_rng(0)
    users, train = rng.integers(0, 50, 600) * 7, rng.integers(0, 3, 600)
    first, again, other = (split(train, train, scheme="natural", num_clients=8, users=users, seed=s) for s in (1, 1, 2))
    held = [np.unique(users[own]) for own in first.train]
    assert sorted(np.concatenate(held).tolist()) == np.unique(users).tolist()  # nobody is divided
    assert {len(own) for own in held} == {6, 7}
    assert first.sha256 == again.sha256 != other.sha256


def test_natural_clients_need_users_and_enough_of_them():
    train = np.repeat([0, 1], 10)
    with pytest.raises(ConfigError, match=r"data\.scheme='natural' needs the user of each image"):
        split(train, train, scheme="natural", num_clients=2)
    with pytest.raises(ConfigError, match=r"data\.num_clients=3 is more than the 2 users"):
        split(train, train, scheme="natural", num_clients=3, users=train)


def test_alpha_belongs_to_dirichlet_alone():
    train = np.repeat([0, 1], 10)
    schemes = ("dirichlet", "dirichlet_paper", "iid", "natural")
    known = [split(train, train, scheme=scheme, num_clients=2, alpha=5.0, users=train).has_alpha for scheme in schemes]
    assert known == [True, True, False, False]


def test_saved_and_loaded(tmp_path):
    partition = published(50, 1.0)
    partition.save(tmp_path / "p.json")
    loaded = Partition.load(tmp_path / "p.json")
    assert loaded.sha256 == partition.sha256
    assert (loaded.alpha, loaded.imbalance_factor, loaded.scheme) == (1.0, 50, "dirichlet_paper")


def test_changed_files_are_refused(tmp_path):
    published(50, 1.0).save(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    content["clients"][0]["train"][0] += 1
    (tmp_path / "q.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"q\.json.* do not match its sha256"):
        Partition.load(tmp_path / "q.json")
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(DataError, match="is not a partition"):
        Partition.load(tmp_path / "r.json")
    with pytest.raises(DataError, match="is not a partition"):
        Partition.load(tmp_path / "absent.json")


def rewritten(path, change):
    """A partition file whose content was changed and whose hash was made to match."""
    content = json.loads(path.read_text())
    change(content, content["clients"])
    indices = [[client[part] for client in content["clients"]] for part in ("train", "test")]
    content["sha256"] = hashlib.sha256(json.dumps(indices, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content, clients: clients[0]["train"].__setitem__(0, clients[1]["train"][0]), "occurs twice"),
        (lambda content, clients: clients[0]["train"].__setitem__(0, -1), "negative"),
        (lambda content, clients: clients[0]["test"].__setitem__(0, -1), "negative"),
        (lambda content, clients: clients[1]["train_counts"].__setitem__(0, 99), "do not add up"),
        (lambda content, clients: clients[1]["test"].pop(), "do not add up"),
        (lambda content, clients: content.__setitem__("K", 9), "K is not"),
        (lambda content, clients: content.__setitem__("clients", []), "not a partition"),
    ],
)
def test_files_that_cannot_be_a_split_are_refused(tmp_path, change, problem):
    labels = np.repeat([0, 1], 10)
    split(labels, labels, scheme="iid", num_clients=2).save(tmp_path / "p.json")
    with pytest.raises(DataError, match=problem):
        Partition.load(rewritten(tmp_path / "p.json", change))


def test_fits_the_labels_it_was_made_for():
    train, test = np.repeat([0, 1], [14, 6]), np.repeat([0, 1], 5)
    partition = split(train, test, scheme="iid", num_clients=2)
    assert partition.fits(train, test, 2)
    assert not partition.fits(train[::-1], test, 2)
    assert not partition.fits(train[:-1], test, 2)
    assert not partition.fits(train, test, 3)


@pytest.mark.parametrize(
    ("option", "value"),
    [("scheme", "foo"), ("alpha", 0), ("alpha", float("nan")), ("num_clients", 0), ("min_samples", 0)],
)
def test_impossible_splits_name_the_option(option, value):
    labels = np.repeat([0, 1], 10)
    with pytest.raises(ConfigError, match=rf"data\.{option}="):
        split(labels, labels, **({"scheme": "iid", "num_clients": 2} | {option: value}))


def test_no_client_is_left_with_less_than_min_samples():
    """Each of two classes goes to one client whole: the other 18 are served from these two."""
    labels = np.repeat([0, 1], 50)
    options = {"scheme": "dirichlet", "alpha": 1e-300, "min_samples": 5}
    sizes = [len(own) for own in split(labels, labels, num_clients=20, **options).train]
    assert sizes == [5] * 20


def test_more_clients_than_images():
    with pytest.raises(ConfigError, match=r"data\.num_clients=9 is too many for 8 training images"):
        split(np.repeat([0, 1], 4), np.repeat([0, 1], 4), scheme="iid", num_clients=9)


def test_the_published_recipe_refuses_an_alpha_that_underflows():
    train = np.repeat([0, 1], 10)
    with pytest.raises(ConfigError, match=r"data\.alpha=1e-300 is too small"):
        split(train, train, scheme="dirichlet_paper", num_clients=3, alpha=1e-300)


def test_the_published_recipe_may_leave_a_client_empty():
    train = np.repeat([0, 1], 10)
    with pytest.raises(ConfigError, match=r"data\.scheme='dirichlet_paper' left client \d+ without training images"):
        split(train, train, scheme="dirichlet_paper", num_clients=15, alpha=0.01)


def labelled(counts):
    return np.repeat(np.arange(len(counts)), counts)


def test_images_are_held_out_by_class():
    """A tenth of 20, 10 and 5 images is 2, 1 and 0.5 images, of 35 together 4: the last class gives one."""
    labels = labelled([20, 10, 5])
    held = hold_out(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 1, 1]


def test_a_class_keeps_an_image():
    labels = labelled([1, 2, 30])
    held = hold_out(labels, 0.9, np.random.default_rng(0))
    assert (np.bincount(labels[~held], minlength=3) > 0).all()


def test_a_group_is_held_out_as_a_whole():
    """Thirty groups of four images of one class each."""
    groups, labels = np.repeat(np.arange(30), 4), np.repeat(np.arange(30) % 3, 4)
    held = hold_out(labels, 0.2, np.random.default_rng(0), groups)
    assert np.bincount(labels[held]).tolist() == [8, 8, 8]
    assert set(np.bincount(groups, held)) == {0.0, 4.0}


def test_the_smallest_group_is_held_out_where_every_group_is_too_large():
    groups = np.repeat([0, 1, 2], [30, 20, 25])
    held = hold_out(np.zeros(75, dtype=np.int64), 0.1, np.random.default_rng(0), groups)
    assert set(groups[held]) == {1}


@pytest.fixture
def iid():
    labels, test_labels = labelled([100, 60, 40]), labelled([10, 10, 10])
    return labels, test_labels, split(labels, test_labels, scheme="iid", num_clients=4)


def test_validation_leaves_tests_and_images_as_they_are(iid):
    """Training and validation images of a client together are its training images without validation."""
    labels, _, plain = iid
    validated = plain.with_validation(labels, 0.2)
    for k in range(4):
        both = np.concatenate([validated.train[k], validated.val[k]])
        assert np.array_equal(np.sort(both), np.sort(plain.train[k]))
        assert len(validated.val[k]) == 10
        assert np.array_equal(validated.test[k], plain.test[k])
    assert np.array_equal(validated.train_counts + validated.val_counts, plain.train_counts)
    assert validated.sha256 != plain.sha256


def test_validation_is_saved(iid, tmp_path):
    labels, test_labels, plain = iid
    partition = plain.with_validation(labels, 0.2)
    partition.save(tmp_path / "p.json")
    again = Partition.load(tmp_path / "p.json")
    assert again.sha256 == partition.sha256
    assert np.array_equal(again.val_counts, partition.val_counts)
    assert again.fits(labels, test_labels, 3)
    assert not again.fits(labels, test_labels, 3, labels[::-1].copy())


def test_validation_images_of_a_common_set_follow_the_training_images(iid):
    """Client k gets, of every class, its share of 20 validation images, rounded down."""
    _, _, plain = iid
    drawn = plain.with_drawn_validation(labelled([10, 5, 5]))
    assert np.array_equal(drawn.val_counts, 20 * plain.train_counts // 200)
    assert all(len(own) == count.sum() for own, count in zip(drawn.val, drawn.val_counts, strict=True))
    assert np.array_equal(np.concatenate(drawn.train), np.concatenate(plain.train))
