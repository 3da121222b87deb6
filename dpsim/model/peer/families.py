"""All families of DeePMD-kit's models that dpsim reads and writes; one line each."""

from __future__ import annotations

from dpsim.model.peer.descriptors.dpa1 import DPA1Peer, SeAttenV2Peer
from dpsim.model.peer.descriptors.dpa2 import DPA2Peer
from dpsim.model.peer.descriptors.dpa3 import DPA3Peer
from dpsim.model.peer.descriptors.hybrid import HybridPeer
from dpsim.model.peer.descriptors.se_e2_a import SeE2APeer
from dpsim.model.peer.descriptors.se_e2_r import SeE2RPeer
from dpsim.model.peer.descriptors.se_e3 import SeE3Peer
from dpsim.model.peer.descriptors.se_e3_tebd import SeE3TebdPeer
from dpsim.model.peer.family import Families
from dpsim.model.peer.fittings.dipole import DipolePeer
from dpsim.model.peer.fittings.dos import DOSPeer
from dpsim.model.peer.fittings.energy import EnergyPeer
from dpsim.model.peer.fittings.polarizability import PolarizabilityPeer
from dpsim.model.peer.fittings.population import PopulationPeer
from dpsim.model.peer.fittings.property import PropertyPeer
from dpsim.model.peer.models.compose import LinearPeer, PairTablePeer, ZBLPeer
from dpsim.model.peer.models.spin import SpinPeer
from dpsim.model.peer.models.standard import StandardPeer

FAMILIES = Families(
    models=(StandardPeer(), LinearPeer(), ZBLPeer(), PairTablePeer(), SpinPeer()),
    descriptors=(
        DPA3Peer(),
        DPA1Peer(),
        SeAttenV2Peer(),
        DPA2Peer(),
        SeE3TebdPeer(),
        SeE2APeer(),
        SeE2RPeer(),
        SeE3Peer(),
        HybridPeer(),
    ),
    fittings=(EnergyPeer(), DipolePeer(), PolarizabilityPeer(), DOSPeer(), PropertyPeer(), PopulationPeer()),
)
