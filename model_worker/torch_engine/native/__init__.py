"""Our C++ for CPUs: attention, int8 products, and the threads that compute them."""
