"""The same training sooner or in less memory: processes, graphs, compiling, bfloat16."""
