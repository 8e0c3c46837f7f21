"""A small sampling that is stopped in its middle: as the command line has it, and undisturbed in this process."""

from pathlib import Path

from boltzray.samplers import SMCConfig
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob

ARGUMENTS = [
    "sequence=AA",
    "samples=64",
    "smc_particles=48",
    "smc=mala",
    "smc.schedule=linear",
    "smc.n_steps=60",
    "smc.block_size=16",
    "smc.step_size=1e-6",
    "checkpoint_s=0",
]


def undisturbed(checkpoint: Path, out: str) -> SampleJob:
    """The same job, on two actors: others have their share of the tests' cluster."""
    return SampleJob(
        sequence="AA",
        checkpoint=str(checkpoint),
        out=out,
        samples=64,
        smc_particles=48,
        smc=SMCConfig(schedule="linear", n_steps=60, block_size=16, step_size=1e-6),
        actors=ActorsConfig(flow_replicas=2),
    )


def has_begun(folder: Path) -> bool:
    """Whether SMC has left checkpoints of a few steps."""
    return any((folder / "run").glob("smc-00000[3-9]"))
