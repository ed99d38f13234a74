"""HTTP/1.1 servers behind one contract: the fast engine (httptools) and the stock one (Hypercorn)."""
