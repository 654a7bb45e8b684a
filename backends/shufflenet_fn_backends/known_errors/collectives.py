"""Errors between ranks, and torch_npu's general codes for errors that no other entry matches."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError, code

ENTRIES: Final = (
    KnownError(
        key="EJ0001",
        pattern=r"EJ0001|Failed to initialize the HCCP process",
        meaning="HCCL's process on the device is still there from an earlier run",
        fix="End what is left of it (npu-smi info shows the processes) and start again. Ranks that are "
        "restarted here wait until their devices are free",
        source="LlamaFactory issue 3839; verl pull request 332",
    ),
    KnownError(
        key="EI0006, EI0015",
        pattern=r"EI0006|EI0015|Getting socket times out|wait socket establish timeout|"
        r"topo exchange (server|agent) get socket timeout",
        meaning="a rank waited for another's connection longer than HCCL_CONNECT_TIMEOUT (120 s if not set, "
        "300 s as set here) and the 20 s that HCCL adds: that rank has failed, was started late, or cannot "
        "be reached",
        fix="Look for the first error of all ranks. Without one: start all machines within the time, or "
        "raise HCCL_CONNECT_TIMEOUT (up to 7200) on all of them; name the host's network card in "
        "HCCL_SOCKET_IFNAME where there are several; check the devices' network with hccn_tool -i 0 -ping -g "
        "address OTHER and the TLS switch, alike on all, with hccn_tool -i 0 -tls -g",
        source="vllm-ascend issues 486 and 5461; LlamaFactory issue 5071; hicann/hccl 09300b7, "
        "HCCL_CONNECT_TIMEOUT.md and fault_diagnosis",
        echo=True,
    ),
    KnownError(
        key="EI0002, 507048, 107020",
        pattern=rf"EI0002|wait execution of the Notify register times out|{code('507048|107020')}",
        meaning="a collective waited for a rank longer than HCCL_EXEC_TIMEOUT (1836 s if not set, 544 s as "
        "set here): that rank has failed, hangs, or is much slower",
        fix="Look for the first error of all ranks; 'Heartbeat Lost' in the text names the device that went. "
        "Raise HCCL_EXEC_TIMEOUT only for a rank that is known to be slow",
        source="Ascend/pytorch, troubleshooting_cases/HCCL_timeout.md; vllm-ascend issues 2800, 3413 and "
        "14214; LlamaFactory pull request 975 and issue 5347",
        echo=True,
    ),
    KnownError(
        key="EI0013",
        pattern=r"EI0013|An error CQE occurred|HCCL_E_REMOTE",
        meaning="the process of another rank has ended, or the network to its device failed, during a "
        "collective",
        fix="Look for the first error of all ranks; with none, see dmesg for a process that was killed when "
        "memory ran out, and check the devices' network: hccn_tool -i 0 -link -g",
        source="CANN HCCL guide 8.5, EI0013; vllm-ascend issue 7384",
        echo=True,
    ),
    KnownError(
        key="EI0005",
        pattern=r"EI0005|arguments for collective communication are inconsistent",
        meaning="ranks called different collectives, or the same with another size or dtype: they do not run "
        "the same program on the same settings",
        fix="Start all of them with the same command and versions; training here compares both at the start, "
        "so report this with the text",
        source="CANN HCCL guide 8.5, EI0005",
    ),
    KnownError(
        key="EI0009",
        pattern=r"EI0009|Transport init error",
        meaning="HCCL could not set up the link between two devices",
        fix="Look at the other rank first. Then check the devices' network: hccn_tool -i 0 -link -g, and -ip "
        "-g for each device; all need an address, and those of several machines must reach each other",
        source="vllm-ascend issue 3162",
        echo=True,
    ),
    KnownError(
        key="EJ0002",
        pattern=r"EJ0002|The network port is down",
        meaning="the network port of a device is down",
        fix="See hccn_tool -i 0 -link -g for each device, and its cable and switch. On one machine devices "
        "talk over HCCS; with several machines every device needs its link",
        source="vllm-ascend issue 1815",
    ),
    KnownError(
        key="'device ip' is not set correctly",
        pattern=r"'device[ _]ip' is not set correctly",
        meaning="HCCL does not know the addresses of the devices, which it needs between machines: "
        "/etc/hccn.conf is not in this container",
        fix="Start the container with -v /etc/hccn.conf:/etc/hccn.conf:ro and --net=host. On one machine "
        "unset HCCL_INTRA_ROCE_ENABLE, which asks for the same",
        source="vllm-ascend issues 7711 and 14506",
    ),
    KnownError(
        key="EJ0003, EI0019",
        pattern=r"EJ0003|EI0019|Failed to bind the IP port|listen on ip\[.*\] and specific port\[\d+\] fail",
        meaning="a port that HCCL listens on is taken: of the host from 60000 on (socket type[2]), or 16666 "
        "of the device (type[0] and [1]), by another run on it or by any program",
        fix="End other runs on these devices. For the host's ports keep the system from giving them away "
        "(sysctl -w net.ipv4.ip_local_reserved_ports=60000-60031), or take others by HCCL_IF_BASE_PORT or "
        "HCCL_HOST_SOCKET_PORT_RANGE. Port 16666 is moved by HCCL_NPU_SOCKET_PORT_RANGE, set on all ranks. "
        "The two variables with RANGE are for Atlas A2 and newer; on older ones runs must not share a device",
        source="vllm-ascend issues 405 and 1955 and pull request 16205; LlamaFactory issue 9330; hicann/hccl "
        "09300b7, HCCL_IF_BASE_PORT.md, HCCL_NPU_SOCKET_PORT_RANGE.md",
    ),
    KnownError(
        key="ra init failed, error code is 19",
        pattern=r"HcclGetRootInfo\(&hcclID\), error code is 19\b|ra init failed|getpwuid\(\): uid not found",
        meaning="this user has no line in /etc/passwd, where HCCL (and Python's getpass) looks its number "
        "up, as in a container that was started with --user, or may not open the device files",
        fix="Add the user in the container's image (useradd --uid NUMBER), with the host's group number of "
        "HwHiAiUser, or run as root",
        source="vllm-ascend issue 9490 and pull request 9495",
    ),
    KnownError(
        key="Address already in use",
        pattern=r"Address already in use|EADDRINUSE",
        meaning="the port where the processes meet is taken, often by what is left of an earlier run",
        fix="End it, or name a free port: --rdzv-endpoint HOST:PORT (on one machine a free one is taken by "
        "itself)",
        source="Ascend/pytorch, troubleshooting_cases/port_number_distributed_task_in_use.md",
    ),
    KnownError(
        key="Socket Timeout",
        pattern=r"got error: Socket Timeout|wait timeout after \d+ms|timed out after \d+ seconds waiting for "
        r"clients|client socket has timed out",
        meaning="not all processes came to where they meet: one failed before, or cannot reach machine 0",
        fix="Look for the first error of all ranks; check that every machine reaches the host and port of "
        "--rdzv-endpoint, and that --nnodes and --node-rank are right on each",
        source="Ascend/pytorch, communication_domain_link_establishment_timeout.md",
        echo=True,
    ),
    KnownError(
        key="Connection closed by peer",
        pattern=r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited",
        meaning="another rank ended while this one waited for it",
        fix="Look for the first error of all ranks (log.txt, log.rankN.txt)",
        source="torch, gloo and c10d",
        echo=True,
    ),
    KnownError(
        key="Watchdog caught collective operation timeout",
        pattern=r"[Ww]atchdog caught collective operation timeout|Timed out waiting \d+ms for (recv|send) "
        r"operation",
        meaning="a collective did not end within the time-out of the process group: a rank has failed, "
        "hangs, or computes something else",
        fix="Look for the first error of all ranks (log.txt, log.rankN.txt)",
        source="torch, ProcessGroupNCCL and gloo",
        echo=True,
    ),
    KnownError(
        key="ERR02002, Tensors must be contiguous",
        pattern=r"Tensors must be contiguous|ERR02002",
        meaning="a collective was given a tensor that is not contiguous",
        fix="Training here gives it flat buffers: report this. In code of your own call .contiguous() first",
        source="Ascend/pytorch, communication_operator_transfers_Non-contiguous_tensors.md",
    ),
)

_LOGS: Final = (
    "read ~/ascend/log/debug/plog of that time (ASCEND_GLOBAL_LOG_LEVEL=1 makes it say more)"
)

GENERAL: Final = (
    KnownError(
        key="HcclCommInitRootInfo, error code is 1, 5, 7, 11",
        pattern=r"[Hh]cclCommInitRootInfo(Config)?\(.*error code is \d+",
        meaning="HCCL could not set up its communicator; the number is HCCL's own: 1 an argument, 5 not "
        "supported, 7 a resource, often a port or a device that is held, 9 and 11 a connection, 24 memory",
        fix="Look for a code such as EI0006 in the lines after it. Without one: end other runs on these "
        "devices, name the host's network card in HCCL_SOCKET_IFNAME, set HCCL_BUFFSIZE lower than 200 where "
        f"memory is short, and {_LOGS}",
        source="vllm-ascend issues 397, 672, 2712, 3196 and 11542; verl issue 5074; Ascend/pytorch, "
        "hccl_types.h",
        echo=True,
    ),
    KnownError(
        key="ERR02200",
        pattern=r"ERR\d\d200",
        meaning="a call of HCCL failed; the lines after it, with a code such as EI0006, say why",
        fix=f"Look the code up in this table; without one {_LOGS}",
        source="Ascend/pytorch, error_code_description/error_code_information.md",
        echo=True,
    ),
    KnownError(
        key="ERR02005, ERR02011",
        pattern=r"ERR02(005|009|010|011)",
        meaning="torch_npu's distributed part failed or waited in vain",
        fix=f"Look for the first error of all ranks; then {_LOGS}",
        source="Ascend/pytorch, error_code_description/error_code_information.md",
        echo=True,
    ),
    KnownError(
        key="ERR00100, ERR01100",
        pattern=r"ERR\d\d(100|300)",
        meaning="a call of CANN failed; the lines after it, with a code such as EZ9999, say why",
        fix=f"Look the code up in this table; without one {_LOGS}",
        source="Ascend/pytorch, error_code_description/error_code_information.md",
    ),
    KnownError(
        key="ERR00007, ERR01007",
        pattern=r"ERR\d\d007",
        meaning="torch_npu has not implemented what was called",
        fix="Report it with the text: training here should not call it",
        source="Ascend/pytorch, error_code_description/error_code_information.md",
    ),
    KnownError(
        key="ERR01001 to ERR01003",
        pattern=r"ERR\d\d00[1-3]",
        meaning="torch_npu refuses an argument: its value, dtype, shape or device",
        fix="Report it with the text: training here should not pass it",
        source="Ascend/pytorch, troubleshooting_cases/failed_verify_op_parameters.md",
    ),
)
