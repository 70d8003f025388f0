"""The page in a browser: typing, clicking, and titles that stay text.

Needs Chromium with its driver (on Debian: apt install chromium-driver) and
pip install selenium; skipped where one of them is not.
"""

import os
import shutil

import pytest

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
  "headless no-sandbox disable-gpu disable-quic no-first-run"
  " disable-background-networking disable-component-update disable-sync"
)
SECONDS = 30


@pytest.fixture(scope="module")
def browser():
  if not BROWSER or not DRIVER:
    pytest.skip("there is no Chromium here, or not its driver")
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  for flag in FLAGS.split():
    options.add_argument(f"--{flag}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  # A closed network's proxy is not for this machine.
  environment = os.environ | {"NO_PROXY": "*", "no_proxy": "*"}
  service = webdriver.ChromeService(DRIVER, env=environment)
  browser = webdriver.Chrome(options, service)
  yield browser
  browser.quit()


class Page:
  """What a person sees and does."""

  def __init__(self, browser, site):
    self.browser = browser
    browser.get(site)
    self.wait(lambda: "tiny" in self.text("#name"))
    self.wait_for_answer()

  def all(self, css):
    return self.browser.find_elements(By.CSS_SELECTOR, css)

  def one(self, css):
    return self.browser.find_element(By.CSS_SELECTOR, css)

  def text(self, css):
    return self.one(css).text

  def texts(self, css):
    return [element.text for element in self.all(css)]

  def wait(self, condition):
    # The page may redraw what is being looked at.
    waiting = WebDriverWait(
      self.browser, SECONDS, 0.05, [StaleElementReferenceException]
    )
    waiting.until(lambda _: condition())

  def wait_for_answer(self):
    busy = self.one("#found").get_attribute
    self.wait(lambda: busy("aria-busy") == "false")

  def fill(self, css, text):
    """Types in the place of what is there."""
    self.one(css).send_keys(Keys.CONTROL + "a" + Keys.NULL + text + Keys.ENTER)

  def choose(self, css, typed):
    """Types and takes the first suggestion."""
    self.one(css).send_keys(typed)
    self.wait(lambda: self.all("[role=option][aria-selected=true]"))
    self.one(css).send_keys(Keys.ENTER)
    self.wait_for_answer()


@pytest.fixture
def page(browser, site):
  page = Page(browser, site)
  yield page
  severe = [
    entry
    for entry in browser.get_log("browser")
    if entry["level"] == "SEVERE" and "status of 404" not in entry["message"]
  ]
  assert not severe, "the page logs no error, such as one of its policy"


def test_from_a_typed_title_to_reasons(page):
  page.one("#item").send_keys("oil")
  page.wait(lambda: page.all("#items [role=option]"))
  assert page.one("#item").get_attribute("aria-expanded") == "true"
  first = page.text("#items-0")
  assert first.startswith("<img src=x onerror=") and "item0" in first
  page.one("#item").send_keys(Keys.ARROW_DOWN)
  selected = page.one("#item").get_attribute("aria-activedescendant")
  assert selected == "items-1"
  page.one("#items-0").click()
  page.wait_for_answer()
  assert "<img src=x" in page.text("#history li")
  assert (
    page.all("img") == [] and page.browser.title == "thinking on tiny: explore"
  )
  assert page.text("#status") == "10 items, most probable first."
  assert len(page.all("#found > li")) == 10
  second = page.all("#found > li")[1]
  assert not second.find_element(By.CSS_SELECTOR, ".chain").is_displayed()
  second.find_element(By.CSS_SELECTOR, "summary").click()
  links = second.find_elements(By.CSS_SELECTOR, ".chain > li")
  assert [link.text.split("\n")[:2] for link in links] == [
    ["Level 1", "thinks of"],
    ["Level 2", "thinks of"],
  ]
  assert all("%" in link.text and "left" in link.text for link in links)


def test_from_a_code_through_the_tree_to_an_item(page):
  link = page.all("#found .chain .link")
  page.all("#found summary")[0].click()
  code = link[0].text.split()[1].rstrip(":")
  link[0].click()
  page.wait(lambda: page.texts("#path button") == ["All items", code])
  assert page.browser.switch_to.active_element.text == "Code tree"
  page.one("#tree .link").click()
  page.wait(lambda: len(page.all("#path button")) == 3)
  assert "item" in page.text("#tree-note")
  page.one("#tree button").click()
  page.wait_for_answer()
  (added,) = page.texts("#history li .text")
  assert added == page.all("#tree .text")[0].text
  page.all("#path button")[0].send_keys(Keys.ENTER)
  page.wait(lambda: page.texts("#path button") == ["All items"])
  assert len(page.all("#tree .bar")) == 6


def test_a_users_latest_item_is_hidden_and_looked_for(page):
  page.choose("#user", "user4")
  history = page.texts("#history li .text")
  assert len(history) == 4
  assert page.text("#held").startswith("Hidden, came next: ")
  assert "What came next is " in page.text("#status")
  page.fill("#k", "24")
  page.wait(lambda: len(page.all("#found > li")) == 24)
  assert page.text(".hit") == "✓ came next"
  page.one("#history button").send_keys(Keys.ENTER)
  assert page.texts("#history li .text") == history[1:]
  page.one("#clear").click()
  page.wait(lambda: "most popular" in page.text("#status"))
  page.one("#random").click()
  page.wait(lambda: page.all("#history li"))


def test_says_what_is_wrong(page):
  assert not page.one("#error").is_displayed()
  page.fill("#k", "51")
  page.wait(lambda: page.one("#error").is_displayed())
  assert "less than or equal to 50" in page.text("#error")
  page.fill("#k", "24")
  page.wait(lambda: not page.one("#error").is_displayed())
  page.browser.get_log("browser")  # Of the refusal: looked at above.
  page.one("#item").send_keys("nothing like it")
  page.wait(lambda: page.text("#items") == "no match")


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_fits_the_screen(page, width):
  size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
  page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
  script = "return document.documentElement.scrollWidth"
  page.choose("#item", "item0")
  assert page.browser.execute_script(script) == width
  page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
