"""Where prompts come from: made, or read from files; several sources as one."""
