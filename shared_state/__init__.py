"""The ground: everything that two ModelMesh processes must agree on."""
