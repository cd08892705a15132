"""What is true of images beside their class: masks, boxes, and how files say them."""
