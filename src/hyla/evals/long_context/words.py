"""Names that needles are called by: an adjective and a noun, all different."""

ADJECTIVES = """
able acid airy aged alert amber ample aqua arctic autumn azure basic bitter black bland blue blunt bold brave brief
bright brisk broad bronze brown calm candid careful cheap cheerful chief chilly civic clean clear clever close
cloudy coarse cold common cool coral crisp curious curly damp dark dear deep dense dim double dry dull dusty eager
early earnest easy elder empty equal even exact faint fair famous fancy far fast fertile fierce final fine firm flat
fluent fond formal frank free fresh frosty full gentle giant glad glossy golden good grand grave gray great green
happy hard harsh hasty heavy hidden high hollow honest huge humble icy ideal idle inner jolly keen kind large late
lazy lean level light little lively local lone long loud lovely low loyal lucky mellow merry mild minor misty modern
modest narrow neat new nimble noble northern novel odd old open orange outer oval pale patient plain polite proud
public pure quick quiet rapid rare ready red regal rich ripe rough round royal rural rusty sandy secret sharp shiny
short shy silent silver simple slim slow small smart smooth snowy sober soft solar solid sour southern spare spicy
steady steep stern still stout strange strict strong subtle sudden sunny sweet swift tall tame tart tender thick
thin tidy tiny tired urban vast velvet violet vivid warm weary western wet white whole wide wild wise witty wooden
young
"""

NOUNS = """
acorn actor album almond anchor ankle apple apron arch arrow artist atlas attic badge bagel baker balcony ballad
bamboo banjo banner barn barrel basin basket beach beacon bead beam bear beaver bell bench berry bicycle birch bird
biscuit blanket blossom boat bonnet book boot bottle boulder bowl box branch brass bread breeze brick bridge broom
brush bucket bugle bush butter button cabin cable cactus cake camel camera camp canal candle canoe canyon cape
captain caravan card carpet carriage castle cave cedar cellar chain chair chalk chapel cherry chess chestnut chimney
church circle city clay cliff clock cloud clover coast coat cobweb coffee coin comet compass copper corner cottage
cotton cradle crane crater creek cricket crown crystal cup curtain cushion daisy dancer desert desk diamond dinner
dolphin donkey door dragon drawer dream drum duck eagle easel echo elbow elm ember engine envelope falcon farm
feather fence fern ferry fiddle field finch flag flame flask flute forest fork fountain fox frame garden garlic gate
geyser glacier glass globe glove goat grape grass guitar hammer harbor harp harvest hat hawk hazel hedge helmet
heron hill honey hook horizon horn horse house island ivory jacket jar jewel jungle kettle key kitchen kite kitten
ladder lake lamp lantern lawn leaf lemon letter library lily lion lizard lobby locket lodge maple marble market
meadow melon mirror moon moss mountain mouse museum music needle nest net notebook oak oasis oboe ocean olive onion
orchard orchid otter oven owl oyster paddle palace palm panther paper parcel park parrot path peach pearl pebble
pencil pepper piano pigeon pillow pilot pine plank planet plate plum pocket pond poppy porch prairie puzzle quarry
quilt rabbit raft rain raven reef ribbon ridge river road robin rocket roof rope rose saddle sail salmon sand saucer
scarf school sea seal shadow shell ship shoe shore silk sky sled snow sofa song sparrow spider spoon spring squirrel
stable star station statue stone storm stove stream street sugar summit sun swan table tailor teapot temple tent
theater thistle thread throne thunder tiger torch tower train tree trumpet tulip tunnel turtle valley vase village
violin wagon wall walnut watch water wave whale wheel whistle willow window winter wolf wood yard zebra
"""


def keys() -> list[str]:
    """All names, sorted."""
    return sorted({f"{adjective}-{noun}" for adjective in ADJECTIVES.split() for noun in NOUNS.split()})
