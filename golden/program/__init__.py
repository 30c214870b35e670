"""Programs: what the accelerator fetches from memory and runs. docs/program.md is the contract."""
