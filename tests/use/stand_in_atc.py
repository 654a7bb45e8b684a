#!/usr/bin/env python3
"""Stands in for CANN's atc: checks its arguments and files as atc's documents demand, and writes an OM."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import onnx

OPERATORS = {"Conv", "Relu", "MaxPool", "Gather", "Concat", "GlobalAveragePool", "Flatten", "Gemm"}
DEMANDED = {
    "framework",
    "model",
    "output",
    "input_format",
    "input_shape",
    "soc_version",
    "output_type",
    "log",
}


def fail(text: str) -> None:
    print("ATC run failed, Please check the detail log, Try 'atc --help' for more information")
    print(f"{text}\n        TraceBack (most recent call last):")
    sys.exit(255)


def main() -> None:
    print("ATC start working now, please wait for a moment.\n...")
    given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
    if set(given) - {"insert_op_conf"} != DEMANDED:
        fail(f"E10001: Value [{sorted(given)}] for parameter [options] is invalid.")
    for name in ("model", "insert_op_conf"):
        path = os.path.realpath(given.get(name, "."))
        if not re.fullmatch(r"[\w./-]+", path) or not os.access(path, os.R_OK):
            fail(f"E10001: Value [{path}] for parameter [--{name}] is invalid. Reason: path.")
    if given["soc_version"] == "Ascend999":
        fail("E10001: Value [Ascend999] for parameter [--soc_version] is invalid. Reason: not supported.")
    model = onnx.load(given["model"])
    onnx.checker.check_model(model, full_check=True)
    (opset,) = model.opset_import
    if opset.version > 17 or model.ir_version > 8 or opset.domain:
        fail(f"E19010: No parser is registered for Op [n0, optype [ai.onnx::{opset.version}::Conv]].")
    other = {node.op_type for node in model.graph.node} - OPERATORS
    if other:
        fail(f"E19010: No parser is registered for Op [n0, optype [ai.onnx::{opset.version}::{other}]].")
    (entry,), (out,) = model.graph.input, model.graph.output
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in (entry, out)]
    shape = f"{entry.name}:{','.join(map(str, shapes[0]))}"
    if 0 in (*shapes[0], *shapes[1]) or given["input_shape"] != shape or out.name != "logits":
        fail(f"E10001: Value [{given['input_shape']}] for parameter [--input_shape] is invalid.")
    expected = {"framework": "5", "input_format": "NCHW", "output_type": "FP32"}
    if any(given[key] != value for key, value in expected.items()):
        fail(f"E10001: Value [{given}] for parameter [options] is invalid.")
    config = Path(given.get("insert_op_conf", os.devnull)).read_text()
    system = "_linux_x86_64" if opset.version == 11 else ""
    Path(f"{given['output']}{system}.om").write_bytes(b"IMOD" + f"{shape} {config}".encode())
    print("ATC run success, welcome to the next use.")


if __name__ == "__main__":
    main()
