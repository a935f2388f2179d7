"""Scripts that run inside the examined interpreter. They need its Python alone, from 3.8 on."""
