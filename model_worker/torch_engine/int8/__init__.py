"""Our 8-bit linear layers: quantized as they are read, computed by torch, or by our C++ where code is compiled."""
