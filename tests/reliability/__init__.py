"""Never a wrong byte: the fault matrix, and what else tries to make fastidm lose or spoil data."""
