"""DPA-3: message passing on atoms, edges and angles."""
