"""The catalogues: every entry loads, agrees with what is published, and says where it is from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych import catalog
from triptych.catalog.lookup import DATA
from triptych.spec.base import SpecError
from triptych.spec.device import Device

SHARED = Path(__file__).parents[3] / "shared" / "data"

# Parameters as the hub counts them in the safetensors files, and bytes of a token's KV in bf16.
PUBLISHED = {
    "opt-125m": (125_239_296, 36_864),
    "opt-350m": (331_196_416, 98_304),
    "opt-1.3b": (1_315_758_080, 196_608),
    "opt-6.7b": (6_658_473_984, 524_288),
    "Llama-2-7B": (6_738_415_616, 524_288),
    "Llama-2-13B": (13_015_864_320, 819_200),
    "Llama-2-70B": (68_976_648_192, 327_680),
    "Llama-3-8B": (8_030_261_248, 131_072),
    "Llama-3-70B": (70_553_706_496, 327_680),
    "Llama-3.1-405B": (405_853_388_800, 516_096),
    "Llama-3.2-1B": (1_235_814_400, 32_768),
    "Llama-3.2-3B": (3_212_749_824, 114_688),
    "CodeLlama-7b": (6_738_546_688, 524_288),
    "CodeLlama-34b": (33_743_970_304, 196_608),
    "Mistral-7B-v0.1": (7_241_732_096, 131_072),
    "Mistral-7B-v0.3": (7_248_023_552, 131_072),
    "Mixtral-8x7B": (46_702_792_704, 131_072),
    "Mixtral-8x22B": (140_620_634_112, 229_376),
    "Qwen-7B": (7_721_324_544, 524_288),
    "Qwen-72B": (72_287_920_128, 2_621_440),
    "Qwen1.5-MoE-A2.7B": (14_315_784_192, 196_608),
    "Qwen2.5-0.5B": (494_032_768, 12_288),
    "Qwen2.5-1.5B": (1_543_714_304, 28_672),
    "Qwen2.5-3B": (3_085_938_688, 36_864),
    "Qwen2.5-7B": (7_615_616_512, 57_344),
    "Qwen2.5-14B": (14_770_033_664, 196_608),
    "Qwen2.5-32B": (32_763_876_352, 262_144),
    "Qwen2.5-72B": (72_706_203_648, 327_680),
    "Qwen3-4B": (4_022_468_096, 147_456),
    "Qwen3-8B": (8_190_735_360, 147_456),
    "Qwen3-14B": (14_768_307_200, 163_840),
    "Qwen3-32B": (32_762_123_264, 262_144),
    "Qwen3-30B-A3B": (30_532_122_624, 98_304),
    "Qwen3-235B-A22B": (235_093_634_560, 192_512),
    "internlm2-20b": (19_861_149_696, 196_608),
    "phi-2": (2_779_683_840, 327_680),
    "gemma-2-2b": (2_614_341_888, 106_496),
    "gemma-2-9b": (9_241_705_984, 344_064),
    "gemma-2-27b": (27_227_128_320, 376_832),
    "Qwen2-VL-2B": (2_208_985_600, 28_672),
    "Qwen2-VL-7B": (8_291_375_616, 57_344),
    "Qwen2-VL-72B": (73_405_560_320, 327_680),
    "Qwen2.5-VL-3B": (3_754_622_976, 36_864),
    "Qwen2.5-VL-7B": (8_292_166_656, 57_344),
    "Qwen2.5-VL-32B": (33_452_718_336, 262_144),
    "Qwen2.5-VL-72B": (73_410_777_344, 327_680),
    "Qwen3-VL-2B": (2_127_532_032, 114_688),
    "Qwen3-VL-4B": (4_437_815_808, 147_456),
    "Qwen3-VL-8B": (8_767_123_696, 147_456),
    "Qwen3-VL-30B-A3B": (31_070_754_032, 98_304),
}
# Known only rounded, from the model cards.
ROUNDED = {
    "opt-13b": 12.85e9,
    "opt-30b": 29.97e9,
    "opt-66b": 65.7e9,
    "Qwen-14B": 14.2e9,
    "Qwen2-57B-A14B": 57.4e9,
    "internlm-20b": 20.1e9,
    "internlm2-7b": 7.74e9,
    "internlm3-8b": 8.8e9,
    "Qwen3-VL-235B-A22B": 236e9,
    "gpt-oss-20b": 20.91e9,
    "gpt-oss-120b": 116.83e9,
}
# On the model cards, or in the model's name.
ACTIVE = {
    "Mixtral-8x7B": 12.9e9,
    "Mixtral-8x22B": 39.1e9,
    "Qwen1.5-MoE-A2.7B": 2.7e9,
    "Qwen2-57B-A14B": 14.2e9,
    "Qwen3-30B-A3B": 3.3e9,
    "Qwen3-235B-A22B": 22e9,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_kv_bytes_are_the_published_ones(name: str) -> None:
    model = catalog.model(name)
    assert (model.parameters, model.kv_bytes_per_token("bf16")) == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_are_near_those_known_rounded(name: str) -> None:
    assert catalog.model(name).parameters == pytest.approx(ROUNDED[name], rel=0.005)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_near_those_of_the_model_card(name: str) -> None:
    assert catalog.model(name).active_parameters == pytest.approx(ACTIVE[name], rel=0.02)


def test_every_model_loads_and_says_where_it_is_from() -> None:
    for name in catalog.model_names():
        model = catalog.model(name)
        assert model.name == name
        assert model.source.startswith("https://huggingface.co/")


def test_index_and_files_of_the_models_are_one_to_one() -> None:
    files = {path.stem for path in (DATA / "models").glob("*.json")} - {"index"}
    assert files == set(catalog.model_names())


def test_no_alias_means_two_models() -> None:
    index = json.loads((DATA / "models" / "index.json").read_text())
    seen: dict[str, str] = {}
    for name, about in index.items():
        published = about["hub"].partition("/")[2]
        for alias in {name.lower(), published.lower(), *map(str.lower, about.get("aliases", []))}:
            assert seen.setdefault(alias, name) == name


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("llama-3-8b", "Llama-3-8B"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "Llama-3-8B"),
        ("Llama-2-7b-hf", "Llama-2-7B"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B-2507"),
        ("mistralai/Mixtral-8x7B-v0.1", "Mixtral-8x7B"),
    ],
)
def test_names_of_the_hub_and_aliases(name: str, means: str) -> None:
    assert catalog.model(name).name == means


def test_variants_with_another_window_or_vocabulary_are_models_of_their_own() -> None:
    assert catalog.model("Mistral-7B").text.sliding_window == 4096
    assert catalog.model("mistralai/Mistral-7B-Instruct-v0.2").text.sliding_window is None
    assert catalog.model("Mistral-7B-v0.3").text.vocab == 32768


def test_an_entry_is_read_once() -> None:
    assert catalog.model("phi-2") is catalog.model("microsoft/phi-2")
    assert catalog.device("H100") is catalog.device("h100")
    assert catalog.node("DGX-H100") is catalog.node("dgx-h100")


def test_paths_are_read_and_a_name_comes_before_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = (DATA / "models" / "phi-2.json").read_text()
    for folder in ("mine", "Llama-3-8B"):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(shape)
    assert catalog.model("mine").family == "phi"
    assert catalog.model("Llama-3-8B").family == "llama"
    assert catalog.model("./Llama-3-8B").family == "phi"
    Path("my.yaml").write_text(catalog.device("H100").to_yaml())
    assert catalog.device("my.yaml") == catalog.device("H100")
    Path("my-node.yaml").write_text(catalog.node("DGX-H100").to_yaml())
    assert catalog.node("my-node.yaml") == catalog.node("DGX-H100")


class TestRelativePaths:
    """They count from the folder of the file that they are written in, or else from the working directory."""

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder, shape in (("declared", "phi-2"), ("here", "opt-125m"), ("here", "elsewhere/opt-125m")):
            file = tmp_path / folder / Path(shape).parent / "m.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text((DATA / "models" / f"{Path(shape).name}.json").read_text())
        monkeypatch.chdir(tmp_path / "here")

    def test_the_file_s_folder_comes_first(self, tmp_path: Path) -> None:
        file = tmp_path / "declared/plan.yaml"
        assert catalog.model("m.json", file).family == "phi"
        assert catalog.model("random:./m.json", "../declared/plan.yaml").family == "phi"
        assert catalog.config("m.json", file=file)["model_type"] == "phi"
        assert catalog.model("m.json").family == "opt"

    def test_what_is_not_there_counts_from_the_working_directory(self, tmp_path: Path) -> None:
        assert catalog.model("elsewhere/m.json", tmp_path / "declared/plan.yaml").family == "opt"

    def test_devices_and_nodes_likewise(self, tmp_path: Path) -> None:
        file = tmp_path / "declared/plan.yaml"
        file.with_name("d.yaml").write_text(catalog.device("H100").to_yaml())
        file.with_name("n.yaml").write_text(catalog.node("DGX-H100").to_yaml())
        assert catalog.device("d.yaml", file) == catalog.device("H100")
        assert catalog.node("n.yaml", file) == catalog.node("DGX-H100")

    def test_an_error_names_the_places_that_were_tried(self, tmp_path: Path) -> None:
        file = tmp_path / "declared/plan.yaml"
        places = f"neither in {tmp_path / 'declared'} nor in {tmp_path / 'here'}; correct the path"
        with pytest.raises(SpecError) as error:
            catalog.model("none/m.json", file)
        assert str(error.value) == f"{file}: model: none/m.json: no such file or folder, {places}"

    @pytest.mark.parametrize("name", ["x" * 5000 + "/", "~nobody-of-that-name/m.json"])
    def test_what_no_path_can_be_is_not_there(self, name: str) -> None:
        with pytest.raises(SpecError, match="no such file or folder"):
            catalog.model(name)


@pytest.mark.parametrize(
    ("look_up", "name", "line"),
    [
        (catalog.model, "Lama-3-8B", "plan.yaml: model: 'Lama-3-8B' is no known model; did you "),
        (catalog.model, "someone/Llama-3-8B", "did you mean Llama-3"),
        (catalog.model, "zzz", "`triptych models` lists"),
        (catalog.model, "", "plan.yaml: model: '' is no known model"),
        (catalog.model, "a/config.json", "plan.yaml: model: a/config.json: no such file or folder in /"),
        (catalog.device, "A100", "plan.yaml: device: 'A100' is no known device; use one of A10, "),
        (catalog.device, "my.yaml", "plan.yaml: device: my.yaml: no such file or folder in /"),
        (catalog.model, "/none", "plan.yaml: model: /none: no such file or folder; correct the path"),
        (catalog.model, "random:./none", "plan.yaml: model: ./none: no such file or folder in /"),
        (catalog.model, "models/of/mine", "plan.yaml: model: models/of/mine: no such file or folder in "),
        (catalog.model, "Qwen/Qwen9", "plan.yaml: model: 'Qwen/Qwen9' is no known model; did you mean "),
        (catalog.node, "DGX", "plan.yaml: node: 'DGX' is no known node; use one of A100-PAIRS"),
    ],
)
def test_unknown_names_are_refused_with_a_mend(look_up: Callable[..., object], name: str, line: str) -> None:
    with pytest.raises(SpecError) as error:
        look_up(name, "plan.yaml")
    assert line in str(error.value)


def test_the_caller_says_in_which_field_the_name_stood() -> None:
    with pytest.raises(SpecError, match=r"^plan.yaml: pools.decode.device: 'x' is no known"):
        catalog.device("x", "plan.yaml", field="pools.decode.device")


@pytest.mark.parametrize("name", catalog.device_names())
def test_every_figure_of_a_device_has_a_source(name: str) -> None:
    device = catalog.device(name)
    elsewhere = {"name", "architecture", "link", "efficiency", "sources"}
    assert set(device.sources) == set(Device.model_fields) - elsewhere
    assert all(device.sources.values())
    assert device.link.source and device.efficiency.source


@pytest.mark.parametrize("name", catalog.device_names())
def test_figures_of_a_device_are_plausible(name: str) -> None:
    device = catalog.device(name)
    assert device.name == name
    assert device.flops["fp32"] < device.flops["bf16"]
    assert device.flops["bf16"] <= min(device.flops.get(p, 1e18) for p in ("fp16", "fp8", "int8"))
    assert device.link.bandwidth < device.bandwidth
    assert device.idle_watts < device.peak_watts


def test_the_h20_is_as_published() -> None:
    h20 = catalog.device("H20")
    assert (h20.flops["bf16"], h20.bandwidth, 2 * h20.link.bandwidth) == (148e12, 4.0e12, 900e9)
    assert h20.memory == pytest.approx(96 * 2**30, rel=0.01)


def test_flops_are_dense() -> None:
    dense = {"A100-80GB": 312e12, "H100": 989e12, "L40S": 362e12, "RTX-4090": 165.2e12}
    assert {name: catalog.device(name).flops["bf16"] for name in dense} == dense


@pytest.mark.parametrize("name", catalog.node_names())
def test_every_figure_of_a_node_has_a_source(name: str) -> None:
    node = catalog.node(name)
    assert node.name == name
    assert set(node.sources) == {"devices", "topology"}
    assert node.holds
    assert set(node.holds) <= set(catalog.device_names())
    assert node.pcie.source and node.network.source


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/hf_configs")
def test_shapes_are_those_of_the_public_configurations() -> None:
    checked = 0
    for path in (SHARED / "hf_configs").glob("*.json"):
        try:
            listed = catalog.model(path.stem.replace("--", "/"))
        except SpecError:
            continue
        public = catalog.model(str(path))
        assert (listed.text, listed.vision) == (public.text, public.vision)
        checked += 1
    assert checked == 19
