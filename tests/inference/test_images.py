import yaml
from PIL import Image

from fedloge.cli import main


def test_images_that_do_not_fit(run, images, tmp_path, capsys, fail):
    Image.new("L", (8, 9)).save(tmp_path / "size.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "mode.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    size = fail("predict", run, tmp_path / "size.png")
    assert "size.png' has 8x9 pixels, but the model takes 8x8. Pass --convert" in size
    assert "mode.png' has mode RGB, but the model takes L (grey)" in fail("predict", run, tmp_path / "mode.png")
    assert "is not an image that Pillow can read" in fail("predict", run, tmp_path / "broken.png")
    assert "empty' holds no image" in fail("predict", run, tmp_path / "empty")
    assert "no file or folder" in fail("predict", run, tmp_path / "absent.png")
    converted = [str(tmp_path / "size.png"), str(tmp_path / "mode.png"), "--convert", "--format=csv"]
    assert main(["predict", str(run), *converted]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_run_on_an_image_folder_makes_images_fit_as_in_training(tmp_path, capsys):
    for part, count in (("train", 6), ("test", 2)):
        for c in range(3):
            (tmp_path / "data" / part / f"class{c}").mkdir(parents=True)
            for i in range(count):
                path = tmp_path / "data" / part / f"class{c}" / f"{i}.png"
                Image.new("RGB", (16, 16), (80 * c, 40 * i, 9)).save(path)
    source = {"class_path": "ImageFolder", "init_args": {"root": str(tmp_path / "data"), "image_size": 16}}
    settings = {
        "trainer": {"rounds": 1, "local_epochs": 1, "accelerator": "cpu", "run_dir": str(tmp_path / "run")},
        "model": {"class_path": "FedAvg", "init_args": {"backbone": "SmallCNN"}},
        "data": {"source": source, "num_clients": 2, "imbalance_factor": 2},
    }
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(tmp_path / "folder.yaml")]) == 0
    Image.new("L", (40, 30)).save(tmp_path / "other.png")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "other.png"), "--format=csv"]) == 0
    assert "class" in capsys.readouterr().out.splitlines()[1]
