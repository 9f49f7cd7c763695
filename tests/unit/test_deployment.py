"""The deployment files agree with each other, with the settings and with the locks; nothing is built here."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.server import LAST_SECONDS
from service.settings import Settings
from service.supervisor import WORKER

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ONE_SHOT = {"migrate"}
LOCKS = ("build", "service", "worker", "dev")
TARGETS = ("service", "worker")
GPU_PACKAGES = re.compile(
    r"torch|torchvision|triton|numpy|scipy|scikit-learn|safetensors|matplotlib|pillow|pyarrow|nvidia-.*|cuda-.*"
)


# --- Dockerfile -------------------------------------------------------------------------------------------


def _stages() -> dict[str, list[str]]:
    """Return the instructions of each build stage by its name, continuation lines joined."""
    stages: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines():
        if opening := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = stages.setdefault(opening[2], [])
        if line.strip():
            current.append(line)
    return stages


STAGES = _stages()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_its_own_hashed_lock_and_then_the_project_alone(target: str) -> None:
    installs = [line for line in STAGES[target] if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert f"{target}.lock" in installs[0]
    assert "--no-deps" in installs[1]
    copied = " ".join(line for line in STAGES[target] if line.startswith("COPY"))
    assert re.findall(r"[a-z]+\.lock", copied) == [f"{target}.lock"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_unprivileged_and_watched(target: str) -> None:
    users = [line for line in STAGES[target] if line.startswith("USER ")]
    assert len(users) == 1
    assert users[0].split()[1].split(":")[0] not in ("0", "root")
    assert any(line.startswith("HEALTHCHECK ") for line in STAGES[target])
    assert any(line.startswith("CMD [") for line in STAGES[target])


def test_the_worker_answers_while_its_child_works() -> None:
    command = next(line for line in STAGES["worker"] if line.startswith("CMD ["))
    words = " ".join(yaml.safe_load(command.removeprefix("CMD ")))
    assert words.startswith("python -m celery -A workers.app worker ")
    for option in (*re.findall(r"--\S+(?: [^-]\S*)?", " ".join(WORKER)), "--prefetch-multiplier 1"):
        assert option in words


def test_the_builder_is_sent_everything_that_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copies = [line for stage in STAGES.values() for line in stage if line.startswith("COPY ")]
    sources = [word for line in copies if "--from=" not in line for word in line.split()[1:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in sent, source


# --- docker-compose.yml -----------------------------------------------------------------------------------


def test_the_services_are_the_documented_ones() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "api", "worker"}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_a_lasting_service_restarts_and_is_watched(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_migrations_run_once_and_before_anything_that_needs_them() -> None:
    migrate = SERVICES["migrate"]
    assert migrate["command"] == ["unlearn", "migrate"]
    assert migrate["restart"] == "no"
    assert migrate["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"] == {
            "postgres": {"condition": "service_healthy"},
            "redis": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        }


def test_the_worker_alone_reserves_a_gpu() -> None:
    [device] = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name in SERVICES if "deploy" in SERVICES[name]] == ["worker"]


def test_only_the_api_publishes_a_port() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["api"]


def test_the_api_and_the_worker_share_settings_artifacts_and_data_sets() -> None:
    api, worker = SERVICES["api"], SERVICES["worker"]
    assert api["volumes"] == worker["volumes"]
    assert {**api["environment"], "UNLEARN_DEVICE": "cuda"} == worker["environment"]
    mounts = [str(volume).removesuffix(":ro").rsplit(":", 1)[1] for volume in api["volumes"]]
    for setting in ("UNLEARN_DATA_DIR", "UNLEARN_ARTIFACTS_URL", "UNLEARN_ALLOWED_ROOTS"):
        assert any(Path(api["environment"][setting]).is_relative_to(mount) for mount in mounts), setting


def test_every_named_volume_is_declared() -> None:
    used = {
        str(volume).split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if re.match(r"[a-z]", str(volume))
    }
    assert used == set(COMPOSE["volumes"])


def test_images_are_pinned_to_a_major_version() -> None:
    bases = {stage[0].split()[1] for stage in STAGES.values()} - set(STAGES)
    images = {service["image"] for service in SERVICES.values() if "image" in service}
    assert images
    for image in bases | images:
        assert re.fullmatch(r"[a-z/]+:\d+(\.\d+)*(-[a-z]+)?", image), image
    built = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert built == set(TARGETS)


def test_a_secret_has_no_default_and_everything_else_has_one() -> None:
    # A file without its comments: what Compose reads.
    references = re.findall(r"(?<!\$)\$\{([A-Z_]+)([^}]*)\}", re.sub(r"(?m)^\s*#.*$", "", COMPOSE_TEXT))
    secrets = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "UNLEARN_MASTER_KEY", "UNLEARN_SIGNING_KEY"}
    assert secrets <= {name for name, _ in references}
    for name, rest in references:
        assert rest.startswith(":?" if name in secrets else ":-"), name
        assert not (name not in secrets and re.search(r"PASSWORD|KEY|SECRET|TOKEN", name)), name


@pytest.mark.parametrize("text", [DOCKERFILE, COMPOSE_TEXT], ids=["Dockerfile", "docker-compose.yml"])
def test_every_setting_named_is_a_setting(text: str) -> None:
    named = set(re.findall(r"\bUNLEARN_([A-Z_]+)", text))
    assert named
    assert named <= {field.upper() for field in Settings.model_fields}


def test_the_composed_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = hashlib.sha256(b"drawn once").hexdigest()
    values = {"POSTGRES_PASSWORD": "p1", "REDIS_PASSWORD": "p2"}
    values |= {"UNLEARN_MASTER_KEY": drawn, "UNLEARN_SIGNING_KEY": hashlib.sha256(drawn.encode()).hexdigest()}
    for name, value in SERVICES["worker"]["environment"].items():
        filled = re.sub(r"\$\{([A-Z_]+):(?:\?[^}]*|-([^}]*))\}", lambda match: values.get(match[1], match[2]), value)
        monkeypatch.setenv(name, filled)
    settings = Settings()
    assert settings.environment == "production"
    assert settings.resolved_database_url == "postgresql+psycopg://unlearn:p1@postgres:5432/unlearn"
    assert settings.resolved_broker_url == "redis://:p2@redis:6379/0"


def test_a_service_is_given_the_time_it_takes_to_end() -> None:
    settings = Settings()
    takes = settings.drain_seconds + settings.shutdown_seconds + LAST_SECONDS
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > takes


# --- locks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One entry of a lock: what is installed, under which condition, and the hashes it may have."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


def _pins(lock: str) -> list[Pin]:
    entries = re.split(r"\n(?! )", (ROOT / "requirements" / f"{lock}.lock").read_text().strip())
    pins = []
    for entry in entries:
        requirement, *hashes = re.split(r"\s*\\\n\s+", entry)
        pins.append(Pin(requirement=Requirement(requirement), hashes=tuple(hashes)))
    return pins


PINS = {lock: _pins(lock) for lock in LOCKS}


def _versions(lock: str) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for pin in PINS[lock]:
        versions.setdefault(pin.name, set()).add(f"{pin.requirement.specifier} ; {pin.requirement.marker}")
    return versions


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_a_lock_is_one_version_with_hashes(lock: str) -> None:
    for pin in PINS[lock]:
        assert re.fullmatch(r"==[0-9a-z.+!]+", str(pin.requirement.specifier)), pin
        assert pin.hashes, pin
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", value) for value in pin.hashes), pin


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert "://" not in text
    assert not re.search(r"(?m)^-", text)
    assert not any(pin.requirement.url for pin in PINS[lock])


def test_the_service_is_locked_without_the_gpu_side() -> None:
    assert [pin.name for pin in PINS["service"] if GPU_PACKAGES.fullmatch(pin.name)] == []
    assert [pin.name for pin in PINS["worker"] if GPU_PACKAGES.fullmatch(pin.name)] != []


@pytest.mark.parametrize("lock", LOCKS)
def test_torch_and_torchvision_come_as_a_pair(lock: str) -> None:
    found = {pin.name for pin in PINS[lock]} & {"torch", "torchvision"}
    assert found == ({"torch", "torchvision"} if lock in ("worker", "dev") else set())


@pytest.mark.parametrize(("smaller", "larger"), [("service", "worker"), ("worker", "dev"), ("build", "dev")])
def test_what_runs_in_production_is_what_was_tested(smaller: str, larger: str) -> None:
    tested = _versions(larger)
    for name, version in _versions(smaller).items():
        assert tested.get(name) == version, name


@pytest.mark.parametrize(("lock", "extras"), [("service", []), ("worker", ["worker"]), ("dev", ["worker", "dev"])])
def test_every_direct_dependency_is_locked_within_its_range(lock: str, extras: list[str]) -> None:
    optional = PROJECT["optional-dependencies"]
    declared = PROJECT["dependencies"] + [line for extra in extras for line in optional[extra]]
    for requirement in map(Requirement, declared):
        pins = [pin for pin in PINS[lock] if pin.name == canonicalize_name(requirement.name)]
        assert pins, requirement
        for pin in pins:
            version = str(pin.requirement.specifier).removeprefix("==")
            assert requirement.specifier.contains(version, prereleases=True), requirement


# --- Makefile, CI -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target() -> None:
    phony = re.search(r"(?m)^\.PHONY: (.+)$", (ROOT / "Makefile").read_text())
    assert phony is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    listed = re.findall(r"(?m)^make ([a-z]+) +\S", shown.stdout)
    assert sorted(listed) == sorted(phony[1].split())


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("make test")
