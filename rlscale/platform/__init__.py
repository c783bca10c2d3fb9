"""What differs between CPU and CUDA, and what must be in place before Megatron-core or SGLang is imported.

`device.py` answers questions about the device, `megatron_cpu.py` and `sglang_cpu.py` adapt the two engines to a machine
without a GPU by import hooks that are installed explicitly, in the process that needs them; `megatron_fixups.py` has
what Megatron-core needs on every device. Nothing here changes torch. Beside them: what processes of every kind need of
the machine, such as ports, memory of files and a debugger's terminal.
"""
