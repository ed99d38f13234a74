"""Secret stores: where ``${secrets:NAME}`` finds its value. One file each; `table` opens them by id."""
