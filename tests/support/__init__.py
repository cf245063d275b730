"""What several test files share: real servers, known content. Import as `from tests.support.servers import Nginx`."""
