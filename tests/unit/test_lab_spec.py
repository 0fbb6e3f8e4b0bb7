from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cluster.errors import LabError
from cluster.lab.spec import Lab, LabSpec, check_spec, free_subnet, from_json, lab_directory, to_json

pytestmark = pytest.mark.unit

LAB = Lab("lab", 2, 4, True, "10.231.7.0/24", Path("/var/tmp/clusterctl-lab/lab"), mounts=("/usr:/usr:ro",))


def test_a_host_has_the_labs_name_and_its_number_in_name_and_address() -> None:
    assert [(host.name, host.address) for host in LAB.hosts] == [
        ("lab-01", "10.231.7.11"),
        ("lab-02", "10.231.7.12"),
    ]


def test_the_last_of_the_most_nodes_has_an_address_in_the_subnet() -> None:
    assert replace(LAB, nodes=99).hosts[-1].address == "10.231.7.109"


def test_the_switch_has_a_namespace_of_its_own() -> None:
    assert LAB.namespaces == ("lab-sw", "lab-01", "lab-02")


def test_the_longest_name_gives_a_link_that_the_kernel_takes() -> None:
    assert len(replace(LAB, name="a" * 10).link) == 15


def test_the_state_file_gives_the_same_lab() -> None:
    assert from_json(to_json(LAB), LAB.directory) == LAB


def test_a_forged_directory_in_the_state_file_is_not_believed() -> None:
    forged = to_json(replace(LAB, directory=Path("/etc")))
    assert from_json(forged, LAB.directory).directory == LAB.directory


@pytest.mark.parametrize("name", ["", "../etc", "a/b", "Lab", "1lab", "lab-", "a" * 11, "a b", "lab\n"])
def test_a_name_that_is_no_directory_or_link_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot be used"):
        lab_directory(name)


@pytest.mark.parametrize(("nodes", "gpus"), [(0, 1), (100, 1), (1, 0)])
def test_numbers_out_of_range_are_refused(nodes: int, gpus: int) -> None:
    with pytest.raises(LabError):
        check_spec(LabSpec(nodes=nodes, gpus=gpus))


def test_the_first_free_subnet_is_taken() -> None:
    used = [IPv4Network("10.231.0.0/24"), IPv4Network("10.231.1.11/32"), IPv4Network("192.0.2.0/24")]
    assert free_subnet(used) == IPv4Network("10.231.2.0/24")


def test_a_vpns_wide_route_is_no_obstacle() -> None:
    assert free_subnet([IPv4Network("10.0.0.0/8")]) == IPv4Network("10.231.0.0/24")


def test_no_free_subnet_is_an_error() -> None:
    with pytest.raises(LabError, match="no free /24"):
        free_subnet([IPv4Network("10.231.0.0/16")])


def test_another_number_of_gpus_is_another_shape_and_another_subnet_is_not() -> None:
    assert LAB.same_shape(replace(LAB, subnet="10.231.9.0/24"))
    assert not LAB.same_shape(replace(LAB, gpus=1))
