from tests.synthesis.conftest import prepared as prepared
