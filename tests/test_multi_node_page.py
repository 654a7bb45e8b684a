"""docs/multi-node.md: its manifest and scripts are well-formed, its commands parse, its example runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "multi-node.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def commands() -> list[str]:
    """Every command of the scripts and of the manifest."""
    (manifest,) = blocks("yaml")
    job = list(yaml.safe_load_all(manifest))[1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    scripts = [script.replace("\\\n", " ") for script in blocks("bash")]
    lines = [line for script in scripts for line in script.splitlines()]
    found = [*container["args"], *(line for line in lines if "shufflenet-fn train" in line)]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("line", commands(), ids=["kubernetes", "slurm", "namespaces"])
def test_commands_parse(line: str, command: Callable[..., Any]) -> None:
    text = line[line.index("shufflenet-fn ") :].rstrip("&' ")
    outcome = command(*shlex.split(text)[1:], "--help")
    assert outcome.code == 0, outcome.err
    assert "Usage: shufflenet-fn" in outcome.out


@pytest.mark.parametrize("script", blocks("bash"))
def test_scripts_are_well_formed(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_pods_find_each_other() -> None:
    service, job = yaml.safe_load_all(blocks("yaml")[0])
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (text,) = pod["containers"][0]["args"]
    assert f"--rdzv-endpoint {name}-0.{pod['subdomain']}:" in text
    assert f"--nnodes {spec['completions']} " in text
    assert spec["parallelism"] == spec["completions"]
    # What Kubernetes asks for where exit codes decide.
    assert "podFailurePolicy" in spec and pod["restartPolicy"] == "Never"
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
def test_the_example_on_one_machine_runs(tmp_path: Path) -> None:
    found = re.search(r"<!-- command: two machines -->\n```bash\n(.*?)^```$", PAGE, re.M | re.S)
    assert found
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("the example needs root and iproute2")
    probe = subprocess.run(["ip", "netns", "add", "node0"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no network namespaces here: {probe.stderr.decode().strip()}")
    subprocess.run(["ip", "netns", "del", "node0"], check=True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "shufflenet-fn"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m shufflenet_fn_cli.main "$@"\n')
    program.chmod(0o755)
    try:
        done = subprocess.run(
            ["bash", "-e", "-c", found.group(1)],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "two" / "results.json").read_text())["name"] == "2p-CPU"
    finally:
        for node in ("node0", "node1"):
            subprocess.run(["ip", "netns", "del", node], capture_output=True, check=False)
