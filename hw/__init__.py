"""What becomes hardware: the C++ HLS spike engine, its test bench, project templates and tool runner."""
