"""DPA-1 (se_atten, se_atten_v2): attention among the neighbours of an atom, no message passing."""
