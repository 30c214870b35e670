"""The generator: one file per block, `config` for the parameters, `gen` for the command line."""
